"""One folder a family, one file a paper: the recipe as a difference from its parent, and its claim."""
