"""Adapters for agent frameworks that do not accept a session directly. Each module requires its framework."""
