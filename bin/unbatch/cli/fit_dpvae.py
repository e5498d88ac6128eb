"""`fit-dpvae`; see `unbatch.cli.fit`."""

from unbatch.cli.fit import fit_program

main = fit_program("fit-dpvae")
