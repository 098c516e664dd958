"""Tests of `service/web/middleware`."""
