"""Coordinates of cells, wherever a file keeps them: obsm under several keys, pairs of columns of obs."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unbatch.data.samples import usable
from unbatch.errors import InputError
from unbatch.text import some

_SLOTS = ("spatial", "X_spatial")
_NAMED = re.compile(r"spatial|coord|centroid|position|location|^(x_)?xyz?$|^(x_)?xy_|_xy$|^pixel", re.IGNORECASE)
_OTHER = re.compile(
    r"umap|tsne|pca|phate|diffmap|draw_graph|harmony|scvi|embedding|neighbo|connect|latent|lsi", re.IGNORECASE
)

_WORDS_OF_PAIRS = (
    "xcentroid/ycentroid centerx/centery centerxglobalpx/centeryglobalpx centroidx/centroidy spatialx/spatialy "
    "spatial1/spatial2 xcoord/ycoord coordx/coordy xcoordinate/ycoordinate xcoords/ycoords coordinatex/coordinatey "
    "xlocation/ylocation xposition/yposition positionx/positiony posx/posy xpos/ypos xum/yum xpx/ypx xpixel/ypixel "
    "pixelx/pixely globalx/globaly xglobal/yglobal centroidxum/centroidyum xglobalpx/yglobalpx "
    "pxlcolinfullres/pxlrowinfullres imagecol/imagerow x/y arraycol/arrayrow"
)
PAIRS = tuple(tuple(pair.split("/")) for pair in _WORDS_OF_PAIRS.split())
"""Columns of obs with both coordinates, in lower case and without what joins words, the best first."""


@dataclass(frozen=True)
class Located:
    """Coordinates, where they are from, why there are none, and what to know about them."""

    found: np.ndarray | None
    place: str
    lacks: str
    remarks: tuple[str, ...] = ()


def locate(file: Any, obs: pd.DataFrame, wanted: str | None, path: str) -> Located:
    """Find the coordinates of the cells.

    Parameters
    ----------
    file
        Open place with obsm.
    obs
        Table of the cells.
    wanted
        Key of obsm, or two or three columns of obs separated by commas; None looks for them.
    path
        File, for messages.

    Raises
    ------
    InputError
        If there are none where they are wanted.
    """
    from anndata.io import read_elem

    keys = [key for key in file["obsm"].keys()] if "obsm" in file else []  # noqa: C416, SIM118
    if wanted:
        return _asked(file, obs, keys, wanted, path)
    lacks = "has no obsm/spatial"
    for key in _SLOTS:
        if key in keys:
            values, lacks = usable(read_elem(file[f"obsm/{key}"]), len(obs), f"obsm/{key}")
            if values is not None:
                return Located(values, f"obsm/{key}", "")
            break
    named = [key for key in keys if key not in _SLOTS and _NAMED.search(key) and not _OTHER.search(key)]
    found = {}
    for key in named:
        values, _ = usable(read_elem(file[f"obsm/{key}"]), len(obs), f"obsm/{key}")
        if values is not None:
            found[key] = values
    if len(found) == 1:
        key, values = next(iter(found.items()))
        return Located(values, f"obsm/{key}", "", (f"coordinates are taken from obsm/{key}, as the file {lacks}",))
    if len(found) > 1:
        return Located(
            None, "", f"{lacks}, but {' and '.join(f'obsm/{key}' for key in found)}",
            (f"coordinates may be in {' or '.join(f'obsm/{key}' for key in found)}, and are not read; name one "
            "by spatial_key in the samplesheet",),
        )  # fmt: skip
    return of_columns(obs, lacks)


def of_columns(obs: pd.DataFrame, lacks: str, wanted: str | None = None, path: str = "") -> Located:
    """Find two columns with coordinates in a table of cells.

    Parameters
    ----------
    obs
        Table of the cells.
    lacks
        Why the file has no coordinates in a place of their own.
    wanted
        Two or three columns separated by commas; None looks for them.
    path
        File, for messages.

    Raises
    ------
    InputError
        If there are none where they are wanted.
    """
    if wanted:
        return _asked(None, obs, [], wanted, path)
    plain: dict[str, str] = {}
    for name in obs:
        plain.setdefault(re.sub(r"[\W_µ]+", "", str(name)).lower(), name)
    for first, second in PAIRS:
        if first in plain and second in plain:
            columns = [plain[first], plain[second]]
            numbers = obs[columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
            values, why = usable(numbers, len(obs), f"obs/{columns[0]}")
            if values is None or not np.isfinite(numbers).any():
                lacks = f"{lacks}, and {why}" if why else lacks
                continue
            listed = " and ".join(columns)
            return Located(
                values,
                f"obs/{columns[0]}",
                "",
                (f"coordinates are taken from the columns {listed} of obs, as the file {lacks}",),
            )
    return Located(None, "", lacks)


def _asked(file: Any, obs: pd.DataFrame, keys: list[str], wanted: str, path: str) -> Located:
    from anndata.io import read_elem

    key = wanted.removeprefix("obsm/")
    if key in keys:
        values, lacks = usable(read_elem(file[f"obsm/{key}"]), len(obs), f"obsm/{key}")
        if values is None:
            raise InputError(f"{path} {lacks}, though spatial_key names it")
        return Located(values, f"obsm/{key}", "")
    columns = [name.strip() for name in wanted.split(",")]
    if len(columns) in (2, 3) and all(name in obs for name in columns):
        numbers = obs[columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        values, lacks = usable(numbers, len(obs), f"obs/{columns[0]}")
        if values is None:
            raise InputError(f"{path} {lacks}, though spatial_key names it")
        return Located(values, f"obs/{columns[0]}", "")
    key_of_obsm = "" if file is None else f"a key of obsm ({some(keys) or 'there are none'}) or "
    raise InputError(
        f"{path}: spatial_key is {wanted}, expected {key_of_obsm}two columns of obs ({some(obs) or 'there are none'})"
    )
