"""Systems first published for still images."""
