"""What operates the service: alerts, dashboards and the runbook are true of what it exports."""
