"""The sections of the report, a file each; a line below is all that the report needs to know of one."""

from unbatch.report.section import Section
from unbatch.report.sections import (
    data,
    embeddings,
    leakage,
    methods,
    runtime,
    scores,
    summary,
    sweep,
    tissue,
    tradeoff,
    warnings,
)

FITS = Section("", "", "")
"""Stands where sections about single fits belong; the methods declare them (``sections`` of ``methods/NAME.py``)."""

SECTIONS = (
    summary.SECTION,
    data.SECTION,
    warnings.SECTION,
    scores.SECTION,
    tradeoff.SECTION,
    leakage.SECTION,
    embeddings.SECTION,
    tissue.SECTION,
    FITS,
    runtime.SECTION,
    methods.SECTION,
)
"""In the order of the page."""

SWEEP = (
    sweep.summary.SECTION,
    sweep.data.SECTION,
    sweep.warnings.SECTION,
    sweep.maps.SECTION,
    sweep.curves.SECTION,
    sweep.means.SECTION,
    methods.SECTION,
)
"""The same of a sweep."""
