"""Observability: metrics, logs, traces and request ids."""
