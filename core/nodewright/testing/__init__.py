"""What a plugin author tests with: conformance kits, a simulated environment and network. Not imported by a running node."""
