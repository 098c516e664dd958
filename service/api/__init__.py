"""The data of the API: requests, options, answers and task descriptions, without HTTP."""
