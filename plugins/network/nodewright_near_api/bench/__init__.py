"""``nodewright bench near``: pre-signed transfers into a real node over a real socket."""
