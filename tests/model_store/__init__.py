"""Tests of the store: versions are whole, never changed, and loaded strictly."""
