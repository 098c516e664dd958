"""Training runs on disk and on screen: the run folder, events, checkpoints, progress."""
