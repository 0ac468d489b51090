"""The store ``aerospike``: key-value rows and unspent outputs in an Aerospike Community server, behind a local journal."""
