"""ASGI middleware: request tracking, authentication and rate limits."""
