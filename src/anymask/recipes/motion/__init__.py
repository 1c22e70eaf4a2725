"""Recipes first published for skeletons and trajectories."""
