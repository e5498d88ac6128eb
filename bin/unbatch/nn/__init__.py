"""Parts that the models share: torch and numpy only, arrays in, arrays out."""
