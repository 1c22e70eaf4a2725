"""Systems first published for health records."""
