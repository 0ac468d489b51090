"""What every store shares: limits, leases, format records, and the adapters that give ``utxo`` and ``blob`` over any
key-value store. No database lives here."""
