"""``nodewright bench teranode``: pre-signed transactions into a real node over a real socket."""
