"""Systems first published for volumes: MRI and CT."""
