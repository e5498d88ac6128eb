"""The models, a package each: torch, numpy and scipy only, arrays in, arrays out."""
