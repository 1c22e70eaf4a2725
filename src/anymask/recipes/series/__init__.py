"""Systems first published for time series."""
