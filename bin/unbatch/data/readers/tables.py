"""Tables of counts as text: cells in rows and genes in columns, or the other way round."""

import csv
import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unbatch.data import features, names
from unbatch.data.genes import ID_COLUMNS, SYMBOL_COLUMNS, looks_like_id
from unbatch.data.readers.coordinates import of_columns
from unbatch.data.readers.kinds import READ, Found
from unbatch.data.samples import Sample, Wanted, only_genes
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_VALUES = 2e7
"""Values of a table that are held dense at once."""

_WORDS_OF_GENE_WORDS = (
    "cell cells cell_id cellid cell_barcode barcode barcodes spot spots spot_id cellname cell_name entityid bin"
)
_GENE_WORDS = frozenset(
    [
        *ID_COLUMNS,
        *SYMBOL_COLUMNS,
        "gene",
        "genes",
        "feature",
        "features",
        "symbol",
        "hgnc",
        "genesymbol",
        "gene symbol",
    ]
)
_CELL_WORDS = frozenset(_WORDS_OF_GENE_WORDS.split())

_WORDS_OF_COMMON = (
    "actb gapdh malat1 b2m eef1a1 tmsb4x tmsb10 ftl fth1 ptprc cd3e cd3d cd4 cd8a ms4a1 cd19 lyz nkg7 gnly "
    "epcam vim pecam1 col1a1 col1a2 col3a1 krt8 krt18 mki67 top2a pcna xist apoe gfap snap25 mbp plp1 cd74 "
    "hla-a hla-b hla-c hla-dra s100a8 s100a9 ubc hspa1a fos jun egr1 tp53 myc mt-co1 mt-co2 mt-nd1 mt-nd4 "
    "mt-cyb mt-atp6 rpl13 rps27 rplp0 neat1 igkc ighm hba1 hbb alb ins gcg sst pou5f1 nanog sox2 acta2 "
    "tagln cd14 fcgr3a il7r ccr7 foxp3 cd68 cd163 c1qa slc17a7 gad1 gad2 aif1 olig1 olig2 pdgfra cldn5 "
    "eef2 tubb tuba1b calm1 calm2 cd9 cd63"
)
_COMMON = frozenset(_WORDS_OF_COMMON.split())
"""Symbols that nearly every list of genes has some of, in lower case."""

_GENE = re.compile(
    r"(?:mt-|MT-)\w+|(?:RP[LS]P?|Rp[ls]p?)\d+\w*|(?:gene|Gene|GENE)[_.-]?\d+|(?:LINC|LOC)\d+|(?:HLA|H2)-\w+"
)
_CELL = re.compile(
    r".*[ACGTN]{10,}.*|(?:cell|spot|bin|c)[_.-]?\d+(?:[_.-]\w+)*|[0-9a-f]{8}-[0-9a-f-]{20,}|\d+|[a-p]{8}-\d+|\d+x\d+",
    re.I,
)

_MEASURED = re.compile(
    r"n_?(?:counts?|genes?|umis?|features?)\w*|total_counts\w*|pct_\w+|percent[._]\w+|n(?:Count|Feature)_\w+|leiden\w*|louvain\w*|"
    r"x|y|z|x_?centroid|y_?centroid|center_?[xy]|area|volume|fov|size_factors?|umap_?\d|tsne_?\d|pc_?\d+|array_(?:row|col)|in_tissue|"
    r"pxl_\w+|cluster\w*|seurat_clusters|doublet_?scores?|batch|sample|donor|library_id",
    re.IGNORECASE,
)
"""Columns of numbers that tables of cells have and that are no genes."""


def read(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read a table of counts; genes are told from cells by their names.

    Raises
    ------
    InputError
        If the names do not tell which are which.
    """
    path = found.place
    sep, head, row = _start(path)
    corner = head[0] if len(head) == len(row) else ""
    columns = head[1:] if len(head) == len(row) else head
    table_kind = f"{path}: a text file without counts"
    lower = {cell.strip().lower() for cell in head}
    if {"sample", "path"} <= lower:
        raise InputError(f"{path}: this is itself a samplesheet, expected the file of one sample")
    if len(columns) < 2:
        raise InputError(
            f"{table_kind}: its first line has {len(head)} column{'s' if len(head) > 1 else ''} "
            f"({some(head, 3)}), expected {READ}"
        )
    index, numeric, other = _read_text(path, sep, len(head) == len(row), columns)
    if not numeric.columns:
        raise InputError(f"{table_kind}: no column of numbers, found {some(columns)}; expected {READ}")
    genes_in_rows = _orientation(path, corner, index, numeric.columns)
    if genes_in_rows:
        obs = pd.DataFrame(index=names.text_index(numeric.columns))
        var = other.set_axis(names.text_index(index))
        counts = numeric.matrix.T.tocsr()
    else:
        obs = other.set_axis(names.text_index(index))
        measured = np.array([bool(_MEASURED.fullmatch(column)) for column in numeric.columns])
        moved = [column for column, is_measured in zip(numeric.columns, measured, strict=True) if is_measured]
        for place in np.flatnonzero(measured):
            obs[numeric.columns[place]] = numeric.matrix[:, [place]].toarray().ravel()
        kept = np.flatnonzero(~measured)
        var = pd.DataFrame(index=names.text_index([numeric.columns[place] for place in kept]))
        counts = numeric.matrix[:, kept]
    at = of_columns(obs, "is a table of counts", wanted.spatial, str(path))
    sample = Sample(
        name, found.path, "table", obs, var, counts.shape, counts.copy, "table of counts", at.found, at.place, at.lacks
    )
    layout = "genes in rows and cells in columns" if genes_in_rows else "cells in rows and genes in columns"
    said = f"a table with {layout}"
    sample = sample.remark("table", said, "info")
    if not genes_in_rows and moved:
        sample = sample.remark(
            "table-columns", f"columns of the table that are no genes are kept with the cells: {some(moved)}"
        )
    for text in at.remarks:
        sample = sample.remark("coordinates-found", text)
    column = features.type_column(var)
    return only_genes(sample, None if column is None else var[column], f"{column}")


def read_cells_by_genes(found: Found, path: Path, name: str, kind: str, key: tuple[str, ...] = ()) -> Sample:
    """Read a platform's table with cells in rows; `key` are columns that name the cells together."""
    sep, head, row = _start(path)
    if len(head) != len(row):
        raise InputError(f"{path}: the first line has {len(head)} columns, the second {len(row)}, expected as many")
    columns = head[1:]
    index, numeric, _other = _read_text(path, sep, True, columns)
    named = list(numeric.columns)
    if key:
        if head[0] != key[0] or key[1] not in named:
            raise InputError(f"{path}: expected the columns {' and '.join(key)}, found {some(head, 4)}")
        place = named.index(key[1])
        second = numeric.matrix[:, [place]].toarray().ravel().astype(int)
        index = [f"{first}_{number}" for first, number in zip(index, second, strict=True)]
        kept = [position for position, column in enumerate(named) if column not in (*key, "cell")]
    else:
        kept = list(range(len(named)))
    var = pd.DataFrame(index=names.text_index([named[position] for position in kept]))
    counts = numeric.matrix[:, kept]
    obs = pd.DataFrame(index=names.text_index(index))
    sample = Sample(name, found.path, "table", obs, var, counts.shape, counts.copy, kind)
    controls = {feature for each in features.unlike_genes(var.index).values() for feature in each}
    types = pd.Series(
        ["control probe" if feature in controls else "Gene Expression" for feature in var.index], var.index
    )
    return only_genes(sample, types if controls else pd.Series(["Gene Expression"] * len(var), var.index), path.name)


def _open(path: Path) -> gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _start(path: Path) -> tuple[str, list[str], list[str]]:
    """Separator of a table, and the cells of its first two lines."""
    try:
        with _open(path) as file:
            lines = [file.readline().decode("utf-8-sig").rstrip("\r\n") for _ in range(2)]
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"{path}: not text that can be read ({error}), expected {READ}") from error
    sep = max("\t,; ", key=lambda each: (lines[0].count(each) + lines[1].count(each), each == ","))
    first, second = (next(csv.reader([line], delimiter=sep), [""]) for line in lines)
    return sep, [cell.strip() for cell in first], second


class _Numbers:
    """Columns of numbers of a table, by name, as a sparse matrix."""

    def __init__(self, columns: list[str], matrix: "csr_matrix") -> None:
        self.columns, self.matrix = columns, matrix


def _read_text(path: Path, sep: str, cornered: bool, columns: list[str]) -> tuple[list[str], _Numbers, pd.DataFrame]:
    """Read a table some rows at a time: names of rows, columns of numbers, and the other columns."""
    from scipy.sparse import csr_matrix, vstack

    index: list[str] = []
    blocks: list[pd.DataFrame] = []
    parts = []
    numeric: np.ndarray | None = None
    try:
        with _open(path) as file:
            reader = pd.read_csv(
                file,
                sep=sep,
                header=None,
                skiprows=1,
                chunksize=max(100, int(_VALUES / max(1, len(columns)))),
                encoding="utf-8",
                low_memory=False,
                dtype={0: str},
            )
            for block in reader:
                if block.shape[1] != len(columns) + 1:
                    raise InputError(
                        f"{path}: lines have {block.shape[1]} columns, the first one {len(columns) + cornered}, "
                        "expected as many"
                    )
                index += ["" if value is None or value != value else str(value) for value in block[0]]
                values = block.iloc[:, 1:]
                if numeric is None:
                    numeric = np.array([dtype.kind in "biuf" for dtype in values.dtypes])
                now = np.array([dtype.kind in "biuf" for dtype in values.dtypes])
                if (numeric & ~now).any():
                    at = np.flatnonzero(numeric & ~now)[0]
                    bad = pd.to_numeric(values.iloc[:, at], errors="coerce").isna() & values.iloc[:, at].notna()
                    raise InputError(
                        f"{path}: column {columns[at]} holds {values.iloc[:, at][bad].iloc[0]!r}, expected "
                        "numbers as above it"
                    )
                parts.append(csr_matrix(values.loc[:, numeric].to_numpy(dtype=np.float64)))
                blocks.append(values.loc[:, ~numeric])
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a table ({str(error).splitlines()[0][:200]})") from error
    if numeric is None:
        raise InputError(f"{path}: a table without lines below the first")
    other = pd.concat(blocks)
    other.columns = [column for column, is_number in zip(columns, numeric, strict=True) if not is_number]
    odd = len(other.columns) > 0.5 * len(columns)
    if odd and len(columns) > 3:
        first = other.columns[0]
        raise InputError(
            f"{path}: most columns are no numbers (such as {first}: {str(other.iloc[0, 0])[:40]!r}), expected a "
            "table of counts"
        )
    return (
        index,
        _Numbers(
            [column for column, is_number in zip(columns, numeric, strict=True) if is_number],
            vstack(parts, format="csr"),
        ),
        other,
    )


def _orientation(path: Path, corner: str, rows: list[str], columns: list[str]) -> bool:
    """Tell whether rows are genes, by the first cell of the table, else by the names."""
    word = corner.strip().strip('"').lower()
    if word in _GENE_WORDS:
        return True
    if word in _CELL_WORDS:
        return False
    gene = [_share_of_genes(each) for each in (rows, columns)]
    cell = [_share_of_cells(each) for each in (rows, columns)]
    # a handful of symbols that everyone measures is enough, of names that are all barcodes none is
    for place, other in ((0, 1), (1, 0)):
        if gene[place] > 0 and gene[other] == 0 and (cell[other] > 0.5 or gene[place] > 0.005):
            return place == 0
        if gene[place] > 0.3 and gene[other] < 0.03:
            return place == 0
    for place, other in ((0, 1), (1, 0)):
        if cell[place] > 0.8 and cell[other] < 0.1:
            return place == 1
    raise InputError(
        f"{path}: it is not clear whether genes are in the rows ({some(rows, 3)}) or in the columns "
        f"({some(columns, 3)}); write gene or "
        "cell into the first cell of the table, for what the rows are"
    )


def _share_of_genes(listed: list[str]) -> float:
    return (
        float(
            np.mean([name.lower() in _COMMON or bool(_GENE.fullmatch(name)) or looks_like_id(name) for name in listed])
        )
        if listed
        else 0.0
    )


def _share_of_cells(listed: list[str]) -> float:
    return float(np.mean([bool(_CELL.fullmatch(name)) for name in listed])) if listed else 0.0
