"""Systems first published for graphs."""
