"""Tests of `deploy/` and of the pages of `docs/` that describe it."""
