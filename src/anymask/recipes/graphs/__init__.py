"""Systems first published for tables."""
