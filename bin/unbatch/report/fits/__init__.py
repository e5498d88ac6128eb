"""Sections of the report of our own methods, a file each; readers, figures and templates are in `unbatch.report`."""
