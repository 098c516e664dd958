"""Prediction: one request from its body to its answers. Knows tasks and limits, neither HTTP nor torch."""
