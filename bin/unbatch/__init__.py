"""unbatch tells batch from biology in single-cell and spatial transcriptomics."""

__version__ = "0.1.0"
