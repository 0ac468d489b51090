"""Bitcoin's own wire protocol: this node among SV Nodes."""
