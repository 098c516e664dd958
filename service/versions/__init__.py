"""Versions: the checkpoints in memory, and how one is loaded, compared, activated and rolled back."""
