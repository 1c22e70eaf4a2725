"""Systems for videos."""
