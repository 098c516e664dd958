"""Tests with large libraries of other projects, run by `make test-clients` in an environment of their own."""
