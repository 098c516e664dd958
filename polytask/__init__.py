"""Polytask: many NLP tasks from one conditional multi-task transformer, trained offline and served over HTTP."""
