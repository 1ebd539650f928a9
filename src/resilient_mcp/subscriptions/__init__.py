"""What is restored after a reconnect: resource subscriptions, listen streams, the log level."""
