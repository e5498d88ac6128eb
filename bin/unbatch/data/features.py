"""Which features of a file are genes, by the feature types that 10x Genomics and others write with them."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from unbatch.data.names import spelling
from unbatch.errors import InputError

_COLUMNS = ("featuretypes", "featuretype")
"""Names of the column, in lower case and without what joins words."""

_GENES = frozenset(["gene expression", "gene", "genes", "gex", "rna", "mrna", "scrna", "snrna"])

_OTHER = frozenset(
    [
        "antibody capture", "antibody", "antibodies", "adt", "protein", "proteins", "cite", "antigen capture",
        "multiplexing capture", "hto", "hashtag", "hashtags", "custom", "crispr guide capture", "crispr", "guide",
        "grna", "sgrna", "peaks", "peak", "atac", "chromatin accessibility", "vdj", "vdj t", "vdj b", "spike in",
        "negative control probe", "negative control codeword", "unassigned codeword", "deprecated codeword",
        "blank codeword", "genomic control", "control probe", "control probes",
    ]
)  # fmt: skip
"""Types that are known to be something else."""

_BIOTYPE = re.compile(
    r"protein coding.*|linc ?rna|lnc ?rna|mi ?rna|(mt )?[rt]rna|misc rna|sno ?rna|sca ?rna|s ?rna|vault ?rna|"
    r"ribozyme|antisense( rna)?|sense (intronic|overlapping)|processed transcript|non coding|.*ncrna|tec|.*pseudogene|"
    r"(ig|tr) .*gene"
)
"""Biotypes of genes, which CELLxGENE's files have in a column of that name."""

# as `_plain` makes them
_MISSING = frozenset(["", "na", "n a", "nan", "none", "null", "<na>", "?", "missing"])

UNTYPED = "without a type"

_UNLIKE = {
    what: re.compile(pattern, re.IGNORECASE)
    for what, pattern in {
        "antibody tags": r".*[_\-. ](?:TotalSeq[\w-]*|adt|prot|protein|ab)\d*|(?:adt|prot|CITE|anti)[_\-.: ].+|"
        r"hashtag.*|hto[_\-. ]?\w*|Isotype.*|.*[_\-. ](?:IgG[\w.-]*[_\-. ]?(?:ctrl|control)|isotype.*)",
        "guides": r".*[_\-. ](?:sg|g)RNA[_\-.]?\w*|(?:sg|g)RNA[_\-.].+|sg[A-Z0-9]+[_\-]\d+|"
        r"(?:non[_\-. ]?targeting|safe[_\-. ]?target)[\w\-.]*",
        "peaks": r"(?:chr)?[\w.]{1,25}[:_-]\d{3,}[-_:]\d{3,}|chr[\w.]+[:_-]\d+[-_:]\d+",
        "control probes": r"Neg(?:ative)?[_\-. ]?(?:Prb|Probe|Control)\w*|BLANK[_\-. ]?\w*|SystemControl.*|"
        r"(?:Unassigned|Deprecated)(?:Codeword)?[_\-. ]\w+|antisense[_\-. ]\w+|Intergenic_Region.*",
    }.items()
}
"""How features are named that are no genes."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the types of a file's features say.

    Attributes
    ----------
    genes
        Which features are genes, shape (features,).
    left_out
        How many of the others there are by type, as the file spells it; `UNTYPED` counts those that have none.
    untyped
        How many of the genes have no type.
    """

    genes: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)
    untyped: int = 0


def type_column(table: pd.DataFrame) -> str | None:
    """Name of the column with feature types: ``feature_types``, ``feature_type`` or another spelling, or None.

    If there are several columns, the first that names a type of 10x Genomics.
    """
    named = {wanted: [name for name in table if _plain(name).replace(" ", "") == wanted] for wanted in _COLUMNS}
    found = [name for names in named.values() for name in names]
    telling = (name for name in found if any(_plain(value) in _GENES | _OTHER for value in table[name].unique()))
    return next(telling, found[0] if found else None)


def genes_among(types: pd.Series, where: str) -> Found:
    """Tell genes from other features.

    Parameters
    ----------
    types
        Type of every feature; may be missing, also as a word.
    where
        File and column, for messages.

    Returns
    -------
    Found
        With types of 10x Genomics, only ``Gene Expression`` (in any case, or as ``GEX``, ``RNA``, ...) are genes. With
        biotypes, everything is that is not known to be something else. Features without a type are genes only if
        there is no other feature that could be.

    Raises
    ------
    InputError
        If no feature is a gene, or fewer features are genes than have no type.
    """
    codes, spelt = pd.factorize(types.astype(object))
    plain = [_plain(value) for value in spelt]
    absent = np.array([*(name in _MISSING for name in plain), True])[codes]
    if absent.all():
        return Found(np.ones(len(types), dtype=bool))
    named = np.array([*(name in _GENES for name in plain), False])[codes]
    biotype = np.array([*(bool(_BIOTYPE.fullmatch(name)) for name in plain), False])[codes]
    other = np.array([*(name in _OTHER for name in plain), False])[codes]
    genes = named | biotype
    if biotype.any() and not named.any():
        genes = ~other & ~absent
    if not genes.any():
        genes = absent
    if not genes.any():
        raise InputError(
            f"{where}: none of {len(types)} features is a gene, found {counted(_tally(spelt, codes))}; expected "
            "'Gene Expression' for genes"
        )
    if absent.sum() > genes.sum():
        raise InputError(
            f"{where}: the type is missing for {absent.sum()} of {len(types)} features, more than the {genes.sum()} "
            "that are genes; expected a type for each, or no such column"
        )
    rest = _tally(spelt, codes[~genes])
    return Found(genes, rest, int((genes & absent).sum()))


def any_named_gene(types: pd.Series) -> bool:
    """Tell whether a type is that of genes."""
    return any(_plain(value) in _GENES for value in types.unique())


def any_known_type(types: set[str]) -> bool:
    """Tell whether a type is one of 10x Genomics, of genes or other features."""
    return any(_plain(value) in _GENES | _OTHER for value in types)


def unlike_genes(names: pd.Index) -> dict[str, list[str]]:
    """Find, by what they seem to be, features that are not named like genes."""
    text = pd.Series(names, dtype=object)
    found = {}
    for what, pattern in _UNLIKE.items():
        matched = text[text.str.fullmatch(pattern)]
        if len(matched):
            found[what] = matched.tolist()
    return found


def counted(left_out: dict[str, int], most: int = 5) -> str:
    """Write counts by type, the most frequent first, for messages."""
    ordered = sorted(left_out.items(), key=lambda item: -item[1])
    text = ", ".join(f"{count} {name if len(name) <= 60 else name[:59] + '…'}" for name, count in ordered[:most])
    return text + (f" and {len(ordered) - most} other types" if len(ordered) > most else "")


def _tally(spelt: Any, codes: np.ndarray) -> dict[str, int]:
    found: dict[str, int] = {}
    first: dict[str, str] = {}
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        value = "" if code < 0 else spelling(spelt[code]) or ""
        plain = _plain(value)
        name = UNTYPED if plain in _MISSING else first.setdefault(plain, value.strip())
        found[name] = found.get(name, 0) + int(count)
    return found


def _plain(value: Any) -> str:
    """Text in lower case with single spaces for whatever joins words."""
    return re.sub(r"[\s_.:/-]+", " ", spelling(value) or "").strip().lower()
