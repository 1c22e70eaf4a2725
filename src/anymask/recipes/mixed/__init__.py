"""Systems first published for samples of several parts."""
