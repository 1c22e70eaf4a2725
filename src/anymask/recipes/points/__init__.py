"""Systems first published for point clouds."""
