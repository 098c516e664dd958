"""Prediction: one request from its body to its answers, without HTTP and without torch."""
