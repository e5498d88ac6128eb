"""Genes of several files under one name each: by id or symbol, without versions, genomes' prefixes and doubles."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from unbatch.data import names
from unbatch.data.notes import Notes
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from unbatch.data.samples import Sample

By = Literal["auto", "symbol", "id"]

ID_COLUMNS = (
    "gene_ids", "gene_id", "geneid", "ensembl_id", "ensembl_ids", "ensemblid", "ensembl", "ensembl_gene_id", "ensg",
    "gene_ensembl", "feature_id", "accession", "gene_stable_id", "ensembl_gene",
)  # fmt: skip
"""Columns of var that have ids of genes, in lower case, the best first."""

SYMBOL_COLUMNS = (
    "gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_names", "symbol", "symbols", "gene_short_name",
    "hgnc_symbol", "mgi_symbol", "external_gene_name", "genename", "genesymbol", "original_gene_symbols", "gene",
    "genes", "name",
)  # fmt: skip
"""Columns of var that have symbols of genes, in lower case, the best first."""

_ID = re.compile(
    r"(?:[A-Za-z0-9.\-]+?_+)?(?:ENS[A-Z]{0,6}\d+|MGP_.+_G\d+|FBgn\d{7}|WBGene\d{8}|ZDB-[A-Z]+-\S+|AT[1-5CM]G\d{5})"
    r"(?:\.\d+)?(?:_PAR_Y)?",
    re.IGNORECASE,
)
_VERSION = r"^(ENS[A-Z]{0,6}\d+)\.\d+(_PAR_Y)?$"
_SUFFIX = r"^(.+)[-.](\d{1,3})$"
_GENOME = (
    r"^((?:GRC[hmzgr]\w?\d+|hg\d+|mm\d+|rn\d+|danRer\d+|dm\d+|ce\d+|susScr\d+|mRatBN7\.2|Rnor[_.]?\d\.?\d?|BDGP\d+|"
    r"WBcel\d+|T2T[-_]CHM13\w*|CHM13\w*)(?:[-_.](?:premrna|20\d\d[-_][A-Z]))?)[_-]{1,8}(?=.)"
)
_DATE = r"^(?:\d{1,2}-(?:Mar|Sep|Dec|Apr|Oct|Feb)|(?:Mar|Sep|Dec|Apr|Oct|Feb)-\d{1,2}|\d{4}-\d\d-\d\d(?: 00:00:00)?)$"

_LEAST = 0.5
"""Share of names that must look like ids for a file to name genes by id."""

_SPARSEST = 5
"""Rising numbers below this many times the number of genes are positions in a longer table, and no ids."""


@dataclass(frozen=True)
class Known:
    """What a file says of its genes, each of shape (genes,).

    Attributes
    ----------
    own
        Whether the file names its genes by ``symbol`` or ``id``; ``number`` where names are no more than positions.
    ids, symbols
        Ids and symbols, an empty text where a gene has none; None where the file has none.
    """

    own: Literal["symbol", "id", "number"]
    ids: np.ndarray | None
    symbols: np.ndarray | None

    def of(self, by: str) -> np.ndarray | None:
        """Return ids or symbols."""
        return self.ids if by == "id" else self.symbols


def looks_like_id(name: str) -> bool:
    """Tell whether a name is an id of a database of genes."""
    return bool(_ID.fullmatch(name))


def known(var: pd.DataFrame) -> Known:
    """Tell what names of genes a table has, in its index and in columns of usual names."""
    index = var.index.to_numpy(dtype=object)
    columns = {str(name).lower(): name for name in reversed(list(var))}
    own = _kind(index)
    ids = index if own == "id" else _column(var, columns, ID_COLUMNS, unique=True)
    symbols = index if own == "symbol" else _column(var, columns, SYMBOL_COLUMNS, unique=False)
    if own != "symbol" and symbols is not None and _kind(symbols) != "symbol":
        symbols = None
    return Known(own, ids, symbols)


def _kind(index: np.ndarray) -> Literal["symbol", "id", "number"]:
    some_names = index[:: max(1, len(index) // 500)]
    if len(some_names) and all(name.isdigit() for name in some_names):
        # ids of Entrez are numbers, too, but are larger, or in no such order
        places = np.array([int(name) if name.isdigit() else -1 for name in index])
        counted = bool((np.diff(places) > 0).all()) and int(places.max()) < _SPARSEST * len(places)
        return "number" if counted else "id"
    looks = np.mean([bool(_ID.fullmatch(name)) for name in some_names]) if len(some_names) else 0
    return "id" if looks > _LEAST else "symbol"


def _column(var: pd.DataFrame, columns: dict[str, str], wanted: tuple[str, ...], unique: bool) -> np.ndarray | None:
    """First of the wanted columns that names nine genes of ten, each once if they should be unique."""
    for name in wanted:
        if name not in columns:
            continue
        values = var[columns[name]]
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype(object)
        text = np.array([_text(value) for value in values], dtype=object)
        given = text[text != ""]
        if len(given) < 0.9 * len(text) or (unique and len(set(given)) < 0.98 * len(given)):
            continue
        return text
    return None


def _text(value: object) -> str:
    found = names.spelling(value)
    return "" if found is None or names.is_missing(found) else names.tidy_text(found)


def find(wanted: Iterable[str], genes: Sequence[str], var: pd.DataFrame | None) -> tuple[list[str], list[str]]:
    """Find genes by name, or by the symbols and ids that a dataset has for them in ``gene_symbol`` and ``gene_id``.

    Parameters
    ----------
    wanted
        Names that somebody wrote.
    genes
        Names of the genes that can be had.
    var
        Columns of these genes and of others, with their names as index; None where there are none.

    Returns
    -------
    found
        Names among `genes`, each once, in the order of `wanted`.
    lacking
        What is wrong with each name that is not found: genes of like names, several genes of that symbol, or that it
        is a gene of the table which cannot be had.
    """
    have = dict.fromkeys(genes)
    others: dict[str, list[str]] = {}
    for column in () if var is None else set(var) & {"gene_symbol", "gene_id"}:
        for gene, value in zip(var.index, var[column].astype(object), strict=True):
            if (name := _text(value)) and name != gene:
                others.setdefault(name, []).append(gene)
    found, lacking = {}, []
    for name in wanted:
        of = [name] if name in have else others.get(name, [])
        mine = [gene for gene in of if gene in have]
        if len(mine) == 1:
            found[mine[0]] = None
        elif mine:
            lacking.append(f"{name} (the symbol of {some(mine, 5)})")
        elif of or (var is not None and name in var.index):
            lacking.append(f"{name} (a gene of the dataset that is not highly variable)")
        else:
            lacking.append(name + _like(name, [*have, *(each for each, of in others.items() if have.keys() & set(of))]))
    return list(found), lacking


def _like(name: str, known_names: list[str]) -> str:
    """Name those that are spelt nearly so."""
    spelt: dict[str, str] = {}
    for each in known_names:
        spelt.setdefault(each.casefold(), each)
    near = get_close_matches(name.casefold(), spelt, n=3, cutoff=0.7)
    return f" (there is {' or '.join(spelt[each] for each in near)})" if near else ""


# Within a file --------------------------------------------------------------------------------------------------------


def mended(sample: "Sample", notes: "Mends") -> "Sample":
    """Clean the names of a file's genes: prefixes of its one genome go, genes without a name are left out."""
    index = sample.var.index
    text = pd.Series(index, dtype=object)
    nameless = text.isin(
        ["", *(word for word in set(text) if len(word) < 5 and word.lower() in ("nan", "na", "<na>", "none"))]
    )
    # NAN and NA as such are no symbols of any organism
    if nameless.any() and not nameless.all():
        notes.add("genes-unnamed", sample.name, int(nameless.sum()))
        sample = sample.only(~nameless.to_numpy())
        text = text[~nameless.to_numpy()].reset_index(drop=True)
    first = text.iloc[:: max(1, len(text) // 50)].str.match(_GENOME)
    if first.any():
        genome = text.str.extract(_GENOME, expand=False)
        shares = genome.value_counts(normalize=True, dropna=False)
        if len(shares) and isinstance(shares.index[0], str) and shares.iloc[0] > 0.95:
            notes.add("genome-prefix", sample.name, int(genome.notna().sum()), shares.index[0])
            text = text.str.replace(_GENOME, "", regex=True)
            sample = _with_prefix_gone(replace(sample, var=sample.var.set_axis(pd.Index(text, dtype=object))))
        elif len(genome.dropna().unique()) > 1:
            listed = ", ".join(f"{count} of {name}" for name, count in genome.value_counts().items())
            notes.add("several-genomes", sample.name, len(text), listed)
    if text.str.match(_DATE).any():
        notes.add("gene-dates", sample.name, int(text.str.match(_DATE).sum()))
    return sample


def _with_prefix_gone(sample: "Sample") -> "Sample":
    """Remove the genome's prefix from the other names of genes, too."""
    var = sample.var.copy()
    for name in var:
        if str(name).lower() in ID_COLUMNS + SYMBOL_COLUMNS:
            var[name] = [re.sub(_GENOME, "", _text(value)) for value in var[name].astype(object)]
    return replace(sample, var=var)


@dataclass
class Mends:
    """Collects what was mended in the names of genes, to say it once for all samples."""

    notes: Notes

    def __post_init__(self) -> None:
        self._found: dict[tuple[str, str], dict[str, int]] = {}

    _TEXTS = {  # noqa: RUF012
        "genes-unnamed": "Genes without a name are left out",
        "genome-prefix": "Names of genes had the prefix of a genome, which is left out",
        "several-genomes": "Genes are of several genomes, and keep the prefix: name those of one, or see that "
        "all samples have these genomes",
        "gene-dates": "Names of genes look like dates, which spreadsheets make of symbols such as MARCH1 or SEPT2: use "
        "the table as it was before",
        "gene-versions": "Ids of genes are taken without their version, as samples have other versions",
        "gene-spelling": "Names of genes are spelt as in the first sample, from which they differ by _, - or . alone",
        "genes-ambiguous": "Genes are left out whose name may stand for other genes in each sample, as a symbol is "
        "there more than once; with ids of genes (gene_ids in var) they could be told apart",
        "genes-doubled": "Names of genes that are there more than once got a suffix (-1, -2, ...)",
        "gene-positions": "Genes are numbered in the file, and named by ids or symbols of var here",
    }

    def add(self, code: str, sample: str, count: int, about: str = "") -> None:
        """Keep that names of so many genes of a sample were mended."""
        self._found.setdefault((code, about), {})[sample] = count

    def tell(self) -> None:
        """Warn of all."""
        for (code, about), samples in self._found.items():
            listed = some((f"{count} of {name}" for name, count in samples.items()), 5)
            self.notes.warn(
                code, f"{self._TEXTS[code]}{f' ({about})' if about else ''}: {listed}.", samples=samples, about=about
            )
        self._found = {}


# Over files -----------------------------------------------------------------------------------------------------------


def name_genes(samples: "list[Sample]", by: By, source: object, notes: Notes) -> "list[Sample]":
    """Give genes names that mean the same gene in every sample, unique in each.

    Parameters
    ----------
    samples
        All samples, with the names of genes in their files.
    by
        What names shall be; ``auto`` leaves what the files have where that can be joined.
    source
        File, for messages.
    notes
        Takes what was mended.

    Returns
    -------
    list of Sample
        ``var`` is named by the common names, and has ``gene_id`` or ``gene_symbol`` for the other where it is known.

    Raises
    ------
    InputError
        If genes cannot be named as wanted, or samples name them in ways that cannot be brought together.
    """
    mends = Mends(notes)
    samples = [mended(sample, mends) for sample in samples]
    about = [known(sample.var) for sample in samples]
    for number, (sample, found) in enumerate(zip(samples, about, strict=True)):
        if found.own == "number" and (found.symbols is not None or found.ids is not None):
            mends.add("gene-positions", sample.name, len(sample.var))
            other = found.symbols if found.symbols is not None else found.ids
            column = pd.Index(np.where(other == "", sample.var.index, other), dtype=object)
            samples[number] = replace(sample, var=sample.var.set_axis(column))
            about[number] = known(samples[number].var)
        elif found.own == "number" and len(samples) > 1:
            raise InputError(
                f"{sample.path}: genes are named by their position alone ({some(sample.var.index, 3)}), which is no "
                "gene in another sample; expected symbols or ids as var_names, or in var['gene_ids']"
            )
    if by != "auto":
        _require(samples, about, by, source)
    if len(samples) == 1:
        result = [_alone(samples[0], about[0], by, mends, notes)]
    else:
        result = _together(samples, about, by, mends, notes)
    mends.tell()
    return result


def _require(samples: "list[Sample]", about: list[Known], by: str, source: object) -> None:
    lacking = [sample for sample, found in zip(samples, about, strict=True) if found.of(by) is None]
    if lacking:
        columns = ID_COLUMNS if by == "id" else SYMBOL_COLUMNS
        raise InputError(
            f"{source}: --gene-names {by}: {some(sample.name for sample in lacking)} have no {by} of genes "
            f"({some(lacking[0].var.index, 3)}), expected them as var_names or in var, as {', '.join(columns[:3])}"
        )


def _alone(sample: "Sample", about: Known, by: By, mends: Mends, notes: Notes) -> "Sample":
    """Name the genes of one file, which no other is joined with."""
    index = sample.var.index
    tenx = sample.slot == "matrix"
    chosen = by if by != "auto" else about.own
    if tenx and by == "auto" and chosen == "symbol" and not index.is_unique and about.ids is not None:
        chosen = "id"
    values = index.to_numpy(dtype=object) if chosen == about.own or about.of(chosen) is None else about.of(chosen)
    text = np.where(values == "", index, values)
    if tenx:
        _tell_tenx(chosen, notes)
    doubled = len(text) - len(set(text))
    if doubled:
        mends.add("genes-doubled", sample.name, doubled)
        text = _made_unique(text)
    return _named(sample, about, text, chosen)


def _tell_tenx(chosen: str, notes: Notes) -> None:
    named = "symbol" if chosen == "symbol" else "gene id, as several genes share a symbol"
    notes.tell("gene-names", f"Genes of 10x files are named by {named}.", by=chosen)


def _made_unique(text: np.ndarray) -> np.ndarray:
    """Add -1, -2, ... to the second, third, ... gene of a name, as anndata does."""
    result, seen, taken = text.copy(), {}, set(text)
    for position, name in enumerate(text):
        number = seen.get(name, -1) + 1
        if number:
            while f"{name}-{number}" in taken:
                number += 1
            result[position] = f"{name}-{number}"
            taken.add(result[position])
        seen[name] = number
    return result


def _named(sample: "Sample", about: Known, text: np.ndarray, by: str) -> "Sample":
    """Name the genes of a sample, and keep their other names in columns of one name in all samples."""
    var = sample.var.set_axis(pd.Index(text, dtype=object))
    for kind, column in (("id", "gene_id"), ("symbol", "gene_symbol")):
        values = about.of(kind)
        if values is not None and not np.array_equal(values, text):
            var[column] = values
        elif values is not None and sample.slot == "matrix":
            var = var.drop(columns=column, errors="ignore")
    return replace(sample, var=var)


def _together(samples: "list[Sample]", about: list[Known], by: By, mends: Mends, notes: Notes) -> "list[Sample]":
    """Name the genes of several files."""
    same = all(sample.var.index.equals(samples[0].var.index) for sample in samples[1:])
    ids = [found.ids for found in about]
    have = {"id": all(each is not None for each in ids), "symbol": all(found.symbols is not None for found in about)}
    if not have["id"] and not have["symbol"]:
        about = _translated(samples, about)
        have["symbol"] = all(found.symbols is not None for found in about)
        have["id"] = all(found.ids is not None for found in about)
    if not have["id"] and not have["symbol"]:
        # each by its own names; where they share none, that is refused with examples
        return [_unique(sample, mends) for sample in samples]
    join = "id" if have["id"] else "symbol"
    keys = [_keys(sample, found, join) for sample, found in zip(samples, about, strict=True)]
    if by == "auto" and join == "id" and have["symbol"]:
        by_symbol = [found.symbols for found in about]
        if _shared(keys) < 0.5 * _shared(by_symbol):
            join, keys = (
                "symbol",
                [_keys(sample, found, "symbol") for sample, found in zip(samples, about, strict=True)],
            )
    if join == "id":
        keys = _without_versions(samples, keys, mends)
    elif not same:
        keys = _one_spelling(samples, keys, mends)
    keep = [np.ones(len(key), dtype=bool) for key in keys] if same and join == "symbol" and _unique_all(keys) else None
    if keep is None:
        keep = _unambiguous(samples, keys, join, mends)
    samples = [sample.only(mask) for sample, mask in zip(samples, keep, strict=True)]
    about = [_subset(found, mask) for found, mask in zip(about, keep, strict=True)]
    keys = [key[mask] for key, mask in zip(keys, keep, strict=True)]
    chosen, text = _shown(samples, about, keys, join, by, notes)
    return [_named(*each, chosen) for each in zip(samples, about, text, strict=True)]


def _unique_all(keys: list[np.ndarray]) -> bool:
    return all(len(set(key)) == len(key) for key in keys)


def _subset(found: Known, mask: np.ndarray) -> Known:
    return Known(
        found.own,
        None if found.ids is None else found.ids[mask],
        None if found.symbols is None else found.symbols[mask],
    )


def _keys(sample: "Sample", found: Known, join: str) -> np.ndarray:
    """Names to join by: ids or symbols, or the file's own name where a gene has none."""
    values = found.of(join)
    return np.where(values == "", sample.var.index.to_numpy(dtype=object), values)


def _shared(keys: list[np.ndarray]) -> int:
    common = set(keys[0])
    for key in keys[1:]:
        common &= set(key)
    return len(common)


def _translated(samples: "list[Sample]", about: list[Known]) -> list[Known]:
    """Give ids to files that have symbols alone, by those that have both; symbols to those that have ids alone."""
    symbol_of: dict[str, str] = {}
    for found in about:
        if found.ids is not None and found.symbols is not None:
            for gene, symbol in zip(_no_version(found.ids), found.symbols, strict=True):
                if gene and symbol:
                    symbol_of.setdefault(gene, symbol)
    if not symbol_of:
        return about
    result = []
    for found in about:
        if found.symbols is None and found.ids is not None:
            symbols = np.array([symbol_of.get(gene, "") for gene in _no_version(found.ids)], dtype=object)
            if (symbols != "").mean() >= 0.5:
                found = Known(found.own, found.ids, symbols)
        result.append(found)
    return result


def _no_version(ids: np.ndarray) -> np.ndarray:
    return pd.Series(ids, dtype=object).str.replace(_VERSION, r"\1\2", regex=True).to_numpy()


def _without_versions(samples: "list[Sample]", keys: list[np.ndarray], mends: Mends) -> list[np.ndarray]:
    """Leave out versions of ids, unless all samples have the same ones."""
    first = set(keys[0])
    if all(set(key) == first for key in keys[1:]):
        return keys
    result = []
    for sample, key in zip(samples, keys, strict=True):
        text = pd.Series(key, dtype=object)
        matched = text.str.extract(_VERSION)
        found = matched[0].notna().to_numpy()
        if found.any():
            short = np.where(found, matched[0].fillna("") + matched[1].fillna(""), key)
            mends.add("gene-versions", sample.name, int(found.sum()))
            key = short.astype(object)
        result.append(key)
    return result


def _one_spelling(samples: "list[Sample]", keys: list[np.ndarray], mends: Mends) -> list[np.ndarray]:
    """Spell symbols as the first sample does where they differ in what joins their parts (HLA-A, HLA.A, HLA_A)."""

    def plain(name: str) -> str:
        return re.sub(r"[-._ ]", "-", name)

    theirs = set(keys[0])
    result = [keys[0]]
    for sample, key in zip(samples[1:], keys[1:], strict=True):
        own = set(key)
        # only names that the other does not have, and that are one of a kind on both sides
        free: dict[str, list[str]] = {}
        for name in theirs - own:
            free.setdefault(plain(name), []).append(name)
        wanted: dict[str, list[str]] = {}
        for name in own - theirs:
            wanted.setdefault(plain(name), []).append(name)
        # R puts an X before a digit
        for name in theirs - own:
            if name[:1].isdigit():
                free.setdefault(plain("X" + name), []).append(name)
        change = {
            spelt[0]: free[form][0]
            for form, spelt in wanted.items()
            if len(spelt) == 1 and len(free.get(form, ())) == 1
        }
        if change:
            mends.add("gene-spelling", sample.name, len(change))
            key = np.array([change.get(name, name) for name in key], dtype=object)
        theirs |= set(key)
        result.append(key)
    return result


def _unambiguous(samples: "list[Sample]", keys: list[np.ndarray], join: str, mends: Mends) -> list[np.ndarray]:
    """Tell which genes have a name that is theirs alone, in every sample."""
    bad: set[str] = set()
    series = [pd.Series(key, dtype=object) for key in keys]
    for text in series:
        bad |= set(text[text.duplicated()])
    # names without the suffix by which doubled symbols are made unique
    plain = [text.str.extract(_SUFFIX)[0] for text in series] if join == "symbol" else []
    for text, base in zip(series, plain, strict=False):
        bad |= set(base[base.isin(set(text) - {np.nan})])
    keep = []
    for number, (sample, text) in enumerate(zip(samples, series, strict=True)):
        mask = ~text.isin(bad).to_numpy()
        if plain:
            # also a suffix whose plain name another sample has more than once
            mask &= ~plain[number].isin(bad).to_numpy()
        if not mask.all():
            mends.add("genes-ambiguous", sample.name, int((~mask).sum()))
        keep.append(mask)
    return keep


def _shown(
    samples: "list[Sample]", about: list[Known], keys: list[np.ndarray], join: str, by: By, notes: Notes
) -> tuple[str, list[np.ndarray]]:
    """Names that genes get, the same in all samples for one key: whether symbols or ids, and the names of each."""
    tenx = any(sample.slot == "matrix" for sample in samples)
    own = {found.own for found in about}
    chosen = by
    if by == "auto":
        # h5ad files have unique names; those of 10x may have one symbol for several genes
        clear = all(sample.var.index.is_unique for sample in samples)
        chosen = "symbol" if own == {"symbol"} and (clear or join == "symbol") else join if own != {"id"} else "id"
    if tenx:
        _tell_tenx(chosen, notes)
    elif len({*own}) > 1 or join != chosen or by != "auto":
        notes.tell("gene-names", f"Genes are joined by {join} and named by {chosen}.", by=chosen, join=join)
    if chosen == join:
        return chosen, keys
    name_of: dict[str, str] = {}
    taken: dict[str, str] = {}
    for found, key in zip(about, keys, strict=True):
        values = found.of(chosen)
        if values is None:
            continue
        for gene, name in zip(key, values, strict=True):
            if gene not in name_of and name:
                # another gene has the symbol already
                unique = name if taken.setdefault(name, gene) == gene else f"{name}_{gene}"
                name_of[gene] = unique
    return chosen, [np.array([name_of.get(gene, gene) for gene in key], dtype=object) for key in keys]


def _unique(sample: "Sample", mends: Mends) -> "Sample":
    twice = sample.var.index.duplicated(keep=False)
    if twice.any():
        mends.add("genes-ambiguous", sample.name, int(twice.sum()))
        return sample.only(~twice)
    return sample


def case_differs(samples: "list[Sample]", genes: pd.Index) -> dict[str, int]:
    """Count, by sample, the genes that are lost and that another sample has in other case."""
    lost = [set(sample.var.index) - set(genes) for sample in samples]
    everywhere = [{name.casefold() for name in each} for each in lost]
    found = {}
    for number, sample in enumerate(samples):
        other = set().union(*(each for place, each in enumerate(everywhere) if place != number))
        own = set().union(*(each for place, each in enumerate(lost) if place != number))
        count = sum(name.casefold() in other and name not in own for name in lost[number])
        if count:
            found[sample.name] = count
    return found
