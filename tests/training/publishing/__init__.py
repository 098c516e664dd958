"""Tests of `training/publishing`."""
