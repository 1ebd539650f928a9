"""One connection after another to one server, each opened, used and closed in one task."""
