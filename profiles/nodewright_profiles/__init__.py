"""The profiles that come with Nodewright, read with importlib.resources."""
