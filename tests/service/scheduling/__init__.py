"""Tests of `service/scheduling`."""
