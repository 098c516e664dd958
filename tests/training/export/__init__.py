"""Tests of `training/export`."""
