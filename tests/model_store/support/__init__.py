"""Support code of the tests in `tests/model_store`."""
