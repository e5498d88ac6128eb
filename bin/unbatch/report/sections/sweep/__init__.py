"""Sections of the report on a sweep: what holds over the whole grid, in place of pages per dataset."""

from unbatch.report.sections.sweep import curves, data, maps, means, summary, warnings

__all__ = ["curves", "data", "maps", "means", "summary", "warnings"]
