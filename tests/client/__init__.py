"""Tests of `polytask_client` and `polytask predict`."""
