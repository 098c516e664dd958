"""The same classifiers in other servers, each written as a user of that server would, and started in its own environment.

Environment variables say what a rival serves: RIVAL_PORT; RIVAL_MODELS, the folder that `models` has made; RIVAL_TASKS, the
tasks, with commas; RIVAL_ENGINE, one of those in `classifiers`; RIVAL_THREADS, the cores there are.
"""
