"""Tests of the service, one file for each of its source files."""
