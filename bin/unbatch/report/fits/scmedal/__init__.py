"""What the report shows of fits of autoencoders: their training, genomaps, and genes that change between batches."""

from unbatch.report.fits.scmedal import genomaps, groups, shifts, training
from unbatch.report.fits.scmedal.read import read_autoencoders
from unbatch.report.section import Sections

SECTIONS = Sections(
    read=read_autoencoders,
    sections=(shifts.SECTION, groups.SECTION, genomaps.SECTION, training.SECTION),
    omitted="Fits whose training and counterfactuals are not shown",
)
