"""What the report shows of fits of spaVAE: domains, predictions, genes, tests between groups, losses."""

from unbatch.report.fits.spavae import domains, genes, prediction, training
from unbatch.report.fits.spavae.read import read_spatial
from unbatch.report.section import Sections

SECTIONS = Sections(
    read=read_spatial,
    sections=(domains.SECTION, prediction.SECTION, genes.SECTION, genes.DIFFERENTIAL, training.SECTION),
    omitted="Fits whose domains, predictions and genes over the tissue are not shown",
)
