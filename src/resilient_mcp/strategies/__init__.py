"""Pure state machines: the time and the random number are arguments, and nothing in here awaits."""
