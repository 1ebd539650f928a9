"""What it takes to plug into agent frameworks that do not simply take a session. Each module needs its framework."""
