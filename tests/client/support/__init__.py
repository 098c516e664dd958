"""Support code of the tests in `tests/client`."""
