"""Tests of the playground in a real browser, against a real service."""
