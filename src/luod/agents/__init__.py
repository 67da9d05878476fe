"""Agents: programs of the house that take part in updates for guests and services that do not know luod."""
