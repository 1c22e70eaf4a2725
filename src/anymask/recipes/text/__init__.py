"""Systems first published for texts."""
