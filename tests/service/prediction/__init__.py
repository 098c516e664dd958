"""Tests of `service/prediction`."""
