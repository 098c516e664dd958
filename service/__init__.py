"""The HTTP service: checks requests, runs them on a device, returns answers."""
