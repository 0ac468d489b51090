"""``nodewright bench aptos``: workloads (``workloads``), what runs them (``columns``, ``objects``) and the command."""
