"""Pure state machines: time and randomness are arguments, and nothing here awaits."""
