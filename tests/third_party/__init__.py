"""Tests with large libraries of other projects, run by `make test-clients` in an environment of their own."""

from tests.support.omissions import without

without("tritonclient")
