"""Evaluation: metrics, baselines, diagnostics and the worst mistakes of a version or a run."""
