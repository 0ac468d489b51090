"""What services share: serving HTTP under trio with bounds on every request."""
