"""Conditional multi-task network: from a text and a task to an answer. Start with `network.py`."""
