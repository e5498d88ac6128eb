"""What the report shows of fits with metagenes: the batch effect, the metagenes, and a simulation's truth."""

from unbatch.report.fits.batchblend import effect, metagenes, truth
from unbatch.report.fits.batchblend.read import read_factorisation
from unbatch.report.section import Sections

SECTIONS = Sections(
    read=read_factorisation,
    sections=(effect.SECTION, metagenes.SECTION, truth.SECTION),
    omitted="Fits whose metagenes and batch effect are not shown",
    warnings=effect.confounded,
)
