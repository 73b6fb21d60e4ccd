"""What a run records and reports: metrics, loggers, set-up and summary."""
