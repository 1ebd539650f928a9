"""Text that leaves the process: printable, bounded, and without secrets."""
