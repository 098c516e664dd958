"""Offline: a recipe and labelled examples go in, a version in the store comes out."""
