"""Tests of training, one file for each of its source files."""
