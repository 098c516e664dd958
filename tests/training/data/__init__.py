"""Tests of `training/data`."""
