"""Tables of counts as text: cells in rows and genes in columns, or the other way round."""

import csv
import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unbatch.data import features, io, names
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
_WORDS_OF_CELLS = (
    "cell cells cell_id cellid cell_barcode barcode barcodes spot spots spot_id cellname cell_name entityid bin"
)
_CELL_WORDS = frozenset(_WORDS_OF_CELLS.split())

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

_OF_CELLS = re.compile(
    r"(?:log1p_)?n_?(?:counts?|genes?|umis?|features?|cells?)\w*|(?:log1p_)?total_(?:counts|umis?|genes)\w*|"
    r"pct[._]\w+|percent(?:age)?[._]\w+|n(?:Count|Feature)_\w+|library_size|"
    r"leiden\w*|louvain\w*|cluster\w*|seurat_clusters|\w+_snn_res[._][\d.]+|phase|"
    r"x|y|z|x_?centroid|y_?centroid|center_?[xy]|area|volume|fov|array_(?:row|col)|in_tissue|pxl_\w+|"
    r"size_?factors?|(?:umap|tsne|pc)_?\d+|pca_\d+|\w*pseudotime|doublets?|(?:\w+[._ ])*scores?(?:[._]?\d+)?|"
    r"age|sex|gender|bmi|height|weight|length|width|time(?:point)?|day|dose|passage|rin|viability|"
    r"batch|sample|donor|patient|subject|individual|replicate|run|lane|slide|section|library|"
    r"(?:batch|sample|donor|patient|subject|library|section|cluster|cell)_?id|"
    r"cell_?(?:type|class|state)s?|labels?|annotations?|condition|group|treatment|disease|tissue|organ|genotype|"
    r"(?:is|has)[._]\w+",
    re.IGNORECASE,
)
"""Columns that tables of cells have and that are no genes."""

_OF_GENES = re.compile(
    r"chr|chrom|chromosome(?:_name)?|seqnames?|start(?:_position)?|end(?:_position)?|strand|width|"
    r"(?:gene|exon|transcript|effective)?[._ ]?length|(?:percentage_gene_)?gc(?:[._]?content)?|"
    r"entrez(?:gene)?(?:[._]?id)?|entrez_gene_id|gene[._]?(?:id|name|symbol|type|biotype)|(?:bio)?type|description|"
    r"mean|variance|total|sum|n_cells\w*|exon_?count|highly_variable|feature_types?",
    re.IGNORECASE,
)
"""Columns that tables of genes have and that are no cells."""

_FEW = (30, 0.2)
"""Columns with fractions, and their share, up to which they are not of the counts where all others are whole."""


def read(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read a table of counts; genes are told from cells by their names.

    Raises
    ------
    InputError
        If the names do not tell which are which.
    """
    path = found.place
    sep, head, row, top = _start(path)
    corner = head[0] if len(head) == len(row) else ""
    columns = head[1:] if len(head) == len(row) else head
    table_kind = f"{path}: a text file without counts"
    lower = {cell.strip().lower() for cell in head}
    if {"sample", "path"} <= lower:
        raise InputError(
            f"{path}: this is itself a samplesheet, expected the file of one sample; as the input, "
            "its name ends in .csv, .tsv or .txt"
        )
    if len(columns) < 2:
        raise InputError(
            f"{table_kind}: its first line has {len(head)} column{'s' if len(head) > 1 else ''} "
            f"({some(head, 3)}), expected {READ}"
        )
    index, numeric, other = _read_text(path, sep, top, columns)
    if not numeric.columns:
        raise InputError(f"{table_kind}: no column of numbers, found {some(columns)}; expected {READ}")
    genes_in_rows = _orientation(path, corner, index, numeric.columns)
    about = _OF_GENES if genes_in_rows else _OF_CELLS
    # what is surely named like a gene stays one, whatever the lists of other columns say
    known = np.array([bool(about.fullmatch(column)) and not _is_gene(column) for column in numeric.columns])
    odd = _fractions(path, numeric, known)
    kept = np.flatnonzero(~known & ~odd)
    moved = [numeric.columns[place] for place in np.flatnonzero(known | odd)]
    what, others = ("cell", "gene") if genes_in_rows else ("gene", "cell")
    named = [numeric.columns[place] for place in kept]
    if not named or (not genes_in_rows and len(moved) >= max(2, len(named)) and not _share_of_genes(named)):
        raise InputError(
            f"{table_kind}: its columns describe {others}s ({some(moved)}), found no columns that are surely {what}s "
            f"({some(named) or 'none'}); expected {READ}"
        )
    table = other.set_axis(names.text_index(index))
    for place in np.flatnonzero(known | odd):
        table[numeric.columns[place]] = numeric.matrix[:, [place]].toarray().ravel()
    entities = pd.DataFrame(index=names.text_index(named))
    if genes_in_rows:
        obs, var = entities, table
        counts = numeric.matrix[:, kept].T.tocsr()
    else:
        obs, var = table, entities
        counts = numeric.matrix[:, kept]
    at = of_columns(obs, "is a table of counts", wanted.spatial, str(path))
    sample = Sample(
        name, found.path, "table", obs, var, counts.shape, counts.copy, "table of counts", at.found, at.place, at.lacks
    )
    layout = "genes in rows and cells in columns" if genes_in_rows else "cells in rows and genes in columns"
    said = f"a table with {layout}"
    sample = sample.remark("table", said, "info")
    if len(table.columns):
        listed = some(table.columns, 50)
        # text is what such tables have, numbers may have been meant as counts
        sample = sample.remark(
            "table-columns",
            f"columns of the table that are no {what}s are kept with the {others}s: {listed}",
            "warning" if moved else "info",
        )
    unlike = _unlike(named, genes_in_rows)
    if unlike:
        sample = sample.remark(
            "table-unlike",
            f"columns of the table that are not named like its others count as {what}s: {some(unlike, 50)}; remove "
            f"those that are no {what}s",
        )
    for text in at.remarks:
        sample = sample.remark("coordinates-found", text)
    column = features.type_column(var)
    return only_genes(sample, None if column is None else var[column], f"{column}")


def read_cells_by_genes(found: Found, path: Path, name: str, kind: str, key: tuple[str, ...] = ()) -> Sample:
    """Read a platform's table with cells in rows; `key` are columns that name the cells together."""
    sep, head, row, top = _start(path)
    if len(head) != len(row):
        raise InputError(f"{path}: the first line has {len(head)} columns, the second {len(row)}, expected as many")
    columns = head[1:]
    index, numeric, _other = _read_text(path, sep, top, columns)
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


def _start(path: Path) -> tuple[str, list[str], list[str], int]:
    """Separator of a table, the cells of its header and of the line below, and how many lines end with the header."""
    filled: list[tuple[int, str]] = []
    comment = ""
    number = 0
    try:
        with _open(path) as file:
            while len(filled) < 2 and (raw := file.readline()):
                number += 1
                line = raw.decode("utf-8-sig").rstrip("\r\n")
                if line.startswith("#") and not filled:
                    comment = line
                elif line.strip():
                    filled.append((number, line))
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"{path}: not text that can be read ({error}), expected {READ}") from error
    lines = [line for _, line in filled]
    if comment and lines and _is_header(comment, lines[0]):
        filled, lines = [(filled[0][0] - 1, comment), *filled], [comment.removeprefix("#"), *lines]
    sep = _separator([*lines, "", ""][:2])
    cells = [next(csv.reader([line], delimiter=sep), [""]) for line in [*lines, "", ""][:2]]
    head, row = [cell.strip() for cell in cells[0]], cells[1]
    # a separator at the end of a line begins no column
    while len(head) > 1 and not head[-1]:
        head.pop()
    while len(row) > len(head) and not row[-1].strip():
        row.pop()
    return sep, head, row, filled[0][0] if filled else 0


def _is_header(comment: str, line: str) -> bool:
    """Tell whether a line that starts like a comment names the columns of the line of numbers below it."""
    sep = _separator([comment, line])
    above, below = (next(csv.reader([each], delimiter=sep), [""]) for each in (comment, line))
    numbers = pd.to_numeric(pd.Series(below[1:], dtype=object), errors="coerce").notna()
    return len(above) == len(below) > 2 and bool(numbers.mean() > 0.5)


def _separator(lines: list[str]) -> str:
    """Return what separates the cells of two lines: what both have as often, outside quotes."""
    plain = [re.sub(r'"[^"]*"', "", line) for line in lines]

    def fit(sep: str) -> tuple[bool, int, bool]:
        counts = [line.count(sep) for line in plain]
        # names may have blanks in them, and the first line may have no cell for the names of rows
        return sep != " " and min(counts) > 0 and abs(counts[0] - counts[1]) <= 1, sum(counts), sep == ","

    return max("\t,; ", key=fit)


class _Numbers:
    """Columns of numbers of a table, by name, as a sparse matrix."""

    def __init__(self, columns: list[str], matrix: "csr_matrix") -> None:
        self.columns, self.matrix = columns, matrix


def _read_text(path: Path, sep: str, top: int, columns: list[str]) -> tuple[list[str], _Numbers, pd.DataFrame]:
    """Read a table some rows at a time, below `top` lines: names of rows, columns of numbers, and the others."""
    from scipy.sparse import csr_matrix, vstack

    index: list[str] = []
    blocks: list[pd.DataFrame] = []
    parts = []
    numeric: np.ndarray | None = None
    try:
        with _open(path) as file:
            for _ in range(top):
                file.readline()
            reader = pd.read_csv(
                file,
                sep=sep,
                header=None,
                chunksize=max(100, int(_VALUES / max(1, len(columns)))),
                encoding="utf-8",
                low_memory=False,
                dtype={0: str},
            )
            for block in reader:
                while block.shape[1] > len(columns) + 1 and block.iloc[:, -1].isna().all():
                    block = block.iloc[:, :-1]
                if block.shape[1] != len(columns) + 1:
                    raise InputError(
                        f"{path}: lines have {block.shape[1]} columns, expected {len(columns) + 1} as the header names"
                    )
                index += ["" if value is None or value != value else str(value) for value in block[0]]
                values = block.iloc[:, 1:]
                # TRUE and FALSE are no counts
                now = np.array([dtype.kind in "iuf" for dtype in values.dtypes])
                if numeric is None:
                    for at in np.flatnonzero(~now):
                        _refuse_mixed(path, columns[at], values.iloc[:, at])
                    numeric = now
                if (numeric & ~now).any():
                    at = np.flatnonzero(numeric & ~now)[0]
                    raise InputError(
                        f"{path}: column {columns[at]} holds {_no_number(values.iloc[:, at])!r}, expected numbers as "
                        "above it"
                    )
                parts.append(csr_matrix(values.loc[:, numeric].to_numpy(dtype=np.float64)))
                blocks.append(values.loc[:, ~numeric])
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a table ({io.first_line(error)})") from error
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


def _no_number(values: pd.Series) -> str:
    """Return the first value of a column that is no number."""
    bad = (pd.to_numeric(values, errors="coerce").isna() & values.notna()) | values.map(lambda each: each is True)
    return str(values[bad].iloc[0]) if bad.any() else str(values.iloc[0])


def _refuse_mixed(path: Path, name: str, values: pd.Series) -> None:
    """Refuse a column that is text for a few values, or a decimal comma, and would not count without a word."""
    if values.dtype.kind == "b" or _OF_CELLS.fullmatch(name) or _OF_GENES.fullmatch(name):
        return
    text = values.dropna().astype(str).str.strip()
    plain = pd.to_numeric(text, errors="coerce").notna()
    comma = text.str.fullmatch(r"[+-]?\d+,\d+")
    if (plain | comma).mean() > 0.5:
        found = text[~plain].iloc[0] if not plain.all() else text.iloc[0]
        right = "numbers with a decimal point" if comma.any() else "numbers as in the rest of the column"
        raise InputError(f"{path}: column {name} holds {found[:40]!r}, expected {right}")


def _fractions(path: Path, numeric: _Numbers, known: np.ndarray) -> np.ndarray:
    """Tell which columns hold fractions where nearly all others are whole, and so are no counts."""
    matrix = numeric.matrix
    fractions = np.bincount(matrix.indices[matrix.data != np.floor(matrix.data)], minlength=matrix.shape[1])
    odd = (fractions > 0) & ~known
    # counts that were estimated or corrected have fractions in many columns
    if odd.sum() > min(_FEW[0], _FEW[1] * (~known).sum()):
        return np.zeros(len(odd), dtype=bool)
    for place in np.flatnonzero(odd):
        values = matrix[:, [place]].data
        # NaN is refused later, by what it is
        values = values[np.isfinite(values)]
        wrong = values[values != np.floor(values)]
        if not len(wrong):
            odd[place] = False
        elif 2 * len(wrong) < len(values):
            raise InputError(
                f"{path}: column {numeric.columns[place]} holds {wrong[0]:g}, expected whole numbers as in its other "
                "lines and columns, or no such column"
            )
    return odd


def _unlike(listed: list[str], are_cells: bool) -> list[str]:
    """Find columns that are not named in the way in which nearly all others are."""
    if are_cells:
        ways = [np.array([bool(_CELL.fullmatch(name)) for name in listed])]
    else:
        # microRNAs are named hsa-mir-21
        gene = np.array([_is_gene(name) for name in listed])
        ways = [
            gene | np.array([not re.match(r"[a-z](?!\w\w-)", name) for name in listed]),
            gene | np.array([not re.search(r"[_ ]|[a-z]\.[a-z]", name) for name in listed]),
        ]
    unlike = np.zeros(len(listed), dtype=bool)
    for usual in ways:
        if usual.mean() > 0.9:
            unlike |= ~usual
    return [name for name, is_unlike in zip(listed, unlike, strict=True) if is_unlike]


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
        f"({some(columns, 3)}); write gene or cell into the first cell of the table, for what the rows are"
    )


def _is_gene(name: str) -> bool:
    """Whether a name is surely one of a gene."""
    return name.lower() in _COMMON or bool(_GENE.fullmatch(name)) or looks_like_id(name)


def _share_of_genes(listed: list[str]) -> float:
    return float(np.mean([_is_gene(name) for name in listed])) if listed else 0.0


def _share_of_cells(listed: list[str]) -> float:
    return float(np.mean([bool(_CELL.fullmatch(name)) for name in listed])) if listed else 0.0
