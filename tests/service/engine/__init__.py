"""Tests of `service/engine`."""
