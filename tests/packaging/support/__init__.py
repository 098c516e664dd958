"""Support code of the tests in `tests/packaging`."""
