"""Sections of the report about single fits, a folder for each family of methods whose files declare them."""
