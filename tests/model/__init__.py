"""Tests of the network, one file for each of its source files."""
