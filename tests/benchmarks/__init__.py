"""Tests of the benchmarks: what they compare, and their arithmetic."""
