"""Sections of the report on a sweep: what holds over the whole grid, in place of pages per dataset."""
