"""What a plugin author tests with: conformance kits, a simulated environment and network. No running node imports it."""
