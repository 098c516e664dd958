"""Benchmarks of quality, serving and structure."""
