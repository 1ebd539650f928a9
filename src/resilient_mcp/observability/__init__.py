"""What a client reports: events, logs, statistics, metrics and traces."""
