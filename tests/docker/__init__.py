"""Tests of the images and of what runs them."""
