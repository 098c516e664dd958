"""Tests of the wheels: what is in them, and what comes with them where they are installed."""
