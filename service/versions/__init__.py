"""Checkpoint versions in memory: which one answers, and how another takes its place."""
