"""Publishing: a finished run becomes a version in the store."""
