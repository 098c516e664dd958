"""Promises that hold across the whole project."""
