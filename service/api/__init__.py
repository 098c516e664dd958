"""Data of the API, without HTTP: requests, options, answers, tensors and task descriptions."""
