"""Tests of training: a file for each of its modules, in the same folders."""
