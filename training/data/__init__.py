"""Training data: files read, records checked, examples encoded, splits drawn, statistics taken."""
