"""What tests of a proof-of-work chain stand on: a small ledger, a pool that keeps its journal, blobs over rows."""
