"""Tests of alerts, dashboards and the runbook against the exported metrics."""
