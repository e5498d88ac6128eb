"""The models, one file each: torch and numpy only, arrays in, arrays out."""
