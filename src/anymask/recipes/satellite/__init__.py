"""Systems first published for satellite imagery and other pictures of many channels."""
