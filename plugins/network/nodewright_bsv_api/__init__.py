"""The HTTP face of a Teranode-shaped node: transactions in, chain reads out, JSON-RPC for wallets and miners."""
