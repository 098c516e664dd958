"""Tests of `service/versions`."""
