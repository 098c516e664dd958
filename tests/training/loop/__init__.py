"""Tests of `training/loop`."""
