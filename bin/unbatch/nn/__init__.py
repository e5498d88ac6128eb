"""Shared machinery of the models: torch and numpy only."""
