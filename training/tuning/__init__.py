"""Tuning: after training together each task gets a row, a low-rank residual and a head of its own on the fixed trunk."""
