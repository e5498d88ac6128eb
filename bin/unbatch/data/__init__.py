"""Contracts between the steps, and reading and writing."""
