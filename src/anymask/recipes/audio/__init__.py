"""Systems first published for speech and sounds."""
