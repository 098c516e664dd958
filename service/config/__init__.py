"""Deployment configuration: settings, API keys, task policies and the CPU cores that this process may use."""
