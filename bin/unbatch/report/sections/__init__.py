"""The sections of the report, a file each; its name below is all that the report needs to know of one."""

from importlib import import_module

from unbatch.report.section import Section

FITS = Section("", "", "")
"""Stands where sections about single fits belong; the methods declare them (``sections`` of ``methods/NAME.py``)."""


def _sections(*names: str | Section) -> tuple[Section, ...]:
    return tuple(each if each is FITS else import_module(f"{__name__}.{each}").SECTION for each in names)


SECTIONS = _sections(
    "summary",
    "data",
    "warnings",
    "scores",
    "tradeoff",
    "leakage",
    "calibration",
    "embeddings",
    "tissue",
    "space",
    FITS,
    "runtime",
    "methods",
)
"""In the order of the page."""

SWEEP = _sections(
    "sweep.summary",
    "sweep.data",
    "sweep.warnings",
    "sweep.maps",
    "sweep.curves",
    "sweep.means",
    "methods",
)
"""The same of a sweep."""
