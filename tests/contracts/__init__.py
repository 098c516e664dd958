"""Properties that hold across the whole project."""
