"""What the report shows of fits that predict positions: where spots are put, how sure that is, rivals, training."""

from unbatch.report.fits.dpvae import genes, maps, tables, training
from unbatch.report.fits.dpvae.read import doubts, read_positions
from unbatch.report.section import FitSection, Sections

SECTIONS = Sections(
    read=read_positions,
    sections=(
        FitSection(
            "positions",
            "Positions from expression",
            "Where a model puts spots by their expression alone, how far off that is, and whether rivals do better.",
            lambda fit, shown: (*maps.pages(fit, shown), *tables.pages(fit, shown), *genes.pages(fit, shown)),
        ),
        training.SECTION,
    ),
    omitted="Fits whose positions are not shown",
    warnings=doubts,
)
