"""Generated scripts and transactions for judging this interpreter beside another."""
