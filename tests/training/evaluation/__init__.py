"""Tests of `training/evaluation`."""
