"""Tests of `training/tuning`."""
