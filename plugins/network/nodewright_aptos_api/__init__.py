"""Aptos's REST API and faucet, as the unmodified Python and TypeScript SDKs call them."""
