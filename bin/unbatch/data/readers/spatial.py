"""Folders of spatial platforms: Space Ranger (Visium, Visium HD), Xenium, MERSCOPE, CosMx."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unbatch.data import io, names
from unbatch.data.readers import tables, tenx
from unbatch.data.readers.coordinates import of_columns
from unbatch.data.readers.kinds import Found, trio
from unbatch.data.samples import Sample, Wanted, usable
from unbatch.errors import InputError
from unbatch.text import some

_POSITIONS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def read_visium(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read all but the counts of a Space Ranger folder: the spots or bins in tissue, with their positions in pixels."""
    reader = tenx.read_mtx if "barcodes" in found.files else tenx.read_hdf5
    sample = reader(found, name, wanted)
    positions = found.files["positions"]
    table = _positions(positions)
    if table.index.has_duplicates:
        raise InputError(
            f"{positions}: barcodes are there more than once ({some(table.index[table.index.duplicated()])})"
        )
    matched = _matched(sample.obs.index, table)
    if not matched.isin(table.index).all():
        unknown = matched[~matched.isin(table.index)]
        raise InputError(
            f"{positions}: {len(unknown)} barcodes of {found.files['matrix'].name} are missing ({some(unknown)})"
        )
    table = table.loc[matched].set_axis(sample.obs.index)
    rows = np.flatnonzero(table["in_tissue"] == 1)
    if not len(rows):
        raise InputError(f"{positions}: no barcode of {found.files['matrix'].name} is in tissue")
    table = table.iloc[rows]
    place = f"{positions.parent.name}/{positions.name}"
    # spots outside of tissue are left out, of a raw matrix too
    remarks = tuple(remark for remark in sample.remarks if remark.code != "raw-matrix")
    coordinates, lacks = usable(table[["pxl_col_in_fullres", "pxl_row_in_fullres"]], len(table), place)
    obs = table[["array_row", "array_col"]].join(sample.obs.iloc[rows]).rename_axis(None)
    return replace(
        sample,
        kind="Visium",
        obs=obs,
        coordinates=coordinates,
        place=place if coordinates is not None else "",
        lacks=lacks,
        rows=rows,
        remarks=remarks,
    )


def _positions(path: Path) -> pd.DataFrame:
    """Read positions of any version: with or without a header, CSV or parquet."""
    expected = f"expected the columns {', '.join(_POSITIONS)}"
    try:
        if path.name.endswith(".parquet"):
            table = pd.read_parquet(path)
            if "barcode" not in table:
                table = table.reset_index(names="barcode")
        else:
            table = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig", skip_blank_lines=True)
            first = [str(cell).strip().lower() for cell in table.iloc[0]] if len(table) else []
            if "in_tissue" in first or "barcode" in first:
                table = table.iloc[1:].set_axis(first, axis=1)
            elif table.shape[1] == len(_POSITIONS):
                table.columns = _POSITIONS
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path}: {expected} ({io.first_line(error)})") from error
    absent = [column for column in _POSITIONS if column not in table]
    if absent:
        raise InputError(f"{path}: {expected}; {', '.join(absent)} missing, found {some(table.columns, 8)}")
    table = table[_POSITIONS].set_index("barcode")
    table.index = names.text_index(table.index)
    try:
        return table.astype(float)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {expected} ({error})") from error


def _matched(barcodes: pd.Index, table: pd.DataFrame) -> pd.Index:
    """Barcodes as the table of positions spells them, which may lack the number at their end."""
    if barcodes.isin(table.index).any():
        return barcodes
    bare = pd.Index(barcodes.str.replace(r"-\d+$", "", regex=True), dtype=object)
    if bare.is_unique and bare.isin(table.index).any():
        return bare
    longer = pd.Index(barcodes + "-1", dtype=object)
    return longer if longer.isin(table.index).any() else barcodes


def read_xenium(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read all but the counts of a Xenium folder, with the centroids of the cells."""
    matrix = found.files["matrix"]
    if matrix.is_dir():
        inside = trio(matrix)
        if inside is None:
            raise InputError(f"{matrix}: a folder without matrix.mtx")
        sample = tenx.read_mtx(replace(found, files={**found.files, **inside}), name, wanted)
    else:
        sample = tenx.read_hdf5(found, name, wanted)
    cells = found.files["cells"]
    table = _cells(cells, ("cell_id", "cell_ID", "cell", "EntityID"))
    return _placed(sample, table, cells, "Xenium", wanted)


def read_merscope(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read the cell_by_gene and cell_metadata of MERSCOPE."""
    sample = tables.read_cells_by_genes(found, found.files["matrix"], name, "MERSCOPE")
    cells = found.files["cells"]
    return _placed(sample, _cells(cells, ("EntityID", "cell", "cell_id", "")), cells, "MERSCOPE", wanted)


def read_cosmx(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read the expression matrix and metadata of CosMx; cell 0 of a field of view is what lies outside of cells."""
    sample = tables.read_cells_by_genes(found, found.files["matrix"], name, "CosMx", key=("fov", "cell_ID"))
    cells = found.files["cells"]
    table = _cells(cells, ("fov", "cell_ID"))
    keep = sample.obs.index.isin(table.index)
    if not keep.all() and not sample.obs.index[~keep].str.endswith("_0").all():
        raise InputError(f"{cells}: {int((~keep).sum())} cells of {found.files['matrix'].name} are missing")
    rows = np.flatnonzero(keep)
    sample = replace(sample, obs=sample.obs.iloc[rows], rows=rows)
    return _placed(sample, table, cells, "CosMx", wanted)


def _cells(path: Path, keys: tuple[str, ...]) -> pd.DataFrame:
    """Read a table of cells, named by the first of some columns that it has, or by two as in CosMx."""
    try:
        table = (
            pd.read_parquet(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, encoding="utf-8-sig", dtype=dict.fromkeys(keys, str))
        )
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a table of cells ({io.first_line(error)})") from error
    if keys[0] == "fov":
        if not {"fov", "cell_ID"} <= set(table):
            raise InputError(f"{path}: expected the columns fov and cell_ID, found {some(table.columns, 8)}")
        index: Any = table["fov"].astype(str) + "_" + table["cell_ID"].astype(str)
    else:
        named = [key for key in keys if key in table]
        # MERSCOPE leaves the header of its first column empty
        index = table[named[0]] if named else table.iloc[:, 0]
    return table.set_axis(names.text_index(index))


def _placed(sample: Sample, table: pd.DataFrame, path: Path, kind: str, wanted: Wanted) -> Sample:
    """Add a table of the cells, and their coordinates from it."""
    if table.index.has_duplicates:
        raise InputError(f"{path}: cells are there more than once ({some(table.index[table.index.duplicated()])})")
    unknown = sample.obs.index[~sample.obs.index.isin(table.index)]
    if len(unknown):
        raise InputError(
            f"{path}: {len(unknown)} of {len(sample.obs)} cells of the counts are missing ({some(unknown)})"
        )
    table = table.loc[sample.obs.index]
    at = of_columns(table, f"has none in {path.name}", wanted.spatial, str(path))
    if at.found is None:
        raise InputError(
            f"{path}: no coordinates (x_centroid and y_centroid, center_x and center_y), found {some(table.columns, 8)}"
        )
    unnamed = [column for column in table if str(column).startswith("Unnamed") or column in sample.obs]
    return replace(
        sample,
        obs=sample.obs.join(table.drop(columns=unnamed)),
        kind=kind,
        coordinates=at.found,
        place=at.place.replace("obs/", f"{path.name}: "),
        lacks="",
    )
