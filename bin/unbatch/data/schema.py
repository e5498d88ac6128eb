"""The contract of the h5ad files between the steps, checked first and last in every program."""

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unbatch.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from unbatch.contract import Slot

VERSION = 1
"""Version of the contract, kept in ``uns['unbatch']['schema']``."""


@cache
def _contract() -> dict[str, dict[str, dict[str, Any]]]:
    import yaml

    return yaml.safe_load(Path(__file__).with_name("schema_h5ad.yml").read_text(encoding="utf-8"))


def validate(
    adata: "AnnData",
    role: str,
    source: str | Path,
    cells_of: "AnnData | None" = None,
    unread: Collection[str] = (),
    slots: "Mapping[str, Slot] | None" = None,
) -> None:
    """Check a file's content against the contract of its role.

    Parameters
    ----------
    adata
        The content; slots that were not read count as absent, so check with what the step needs read.
    role
        ``"dataset"`` or ``"fit"``.
    source
        Name of the file, for the message.
    cells_of
        A dataset whose cells `adata` must have, in the same order.
    unread
        Slots that the step needs not and left in the file; they are not checked.
    slots
        Slots that the method of a fit declares; they are checked where they are present.

    Raises
    ------
    InputError
        At the first slot that breaks the contract.
    """
    about = dict(adata.uns.get("unbatch", {}))
    method = str(about.get("method", "")) if role == "fit" else ""
    output = str(about.get("output", "embedding"))
    declared = {
        name: {"kind": slot.kind, "about": slot.about, "optional": True} for name, slot in (slots or {}).items()
    }
    for slot, rule in (_contract()[role] | declared).items():
        if slot in unread:
            continue
        name = slot.format(method=method)
        value = _get(adata, name)
        if value is None:
            if not rule.get("optional") and rule.get("output", output) == output:
                raise InputError(
                    f"{source}: {name} is missing ({rule['about']}); a {role} file of unbatch was expected"
                )
            continue
        _check(value, rule, name, source)
    if about.get("schema") is not None and int(about["schema"]) != VERSION:
        raise InputError(f"{source}: uns/unbatch/schema is {about['schema']}, this version reads {VERSION}")
    if cells_of is not None and not adata.obs_names.equals(cells_of.obs_names):
        permuted = adata.n_obs == cells_of.n_obs and set(adata.obs_names) == set(cells_of.obs_names)
        found = "the same cells in another order" if permuted else f"{adata.n_obs} other cells"
        raise InputError(f"{source}: obs_names are {found}, the dataset's {cells_of.n_obs} in its order were expected")


def validate_rows(value: Any, slot: str, source: str | Path) -> None:
    """Check some rows of a matrix of a dataset, as `validate` checks all of it.

    Raises
    ------
    InputError
        If they break the contract.
    """
    _check(value, _contract()["dataset"][slot], slot, source)


def _check(value: Any, rule: dict[str, Any], name: str, source: str | Path) -> None:
    problem = _CHECKS[rule["kind"]](value, rule)
    if problem:
        raise InputError(f"{source}: {name} {problem} ({rule['about']})")


def _get(adata: "AnnData", slot: str) -> Any:
    group, _, key = slot.partition("/")
    if not key:
        return getattr(adata, group)
    container = adata.uns.get("unbatch", {}) if group == "uns" and key != "unbatch" else getattr(adata, group)
    return container.get(key)


def _values(matrix: Any) -> np.ndarray:
    return matrix.data if hasattr(matrix, "indptr") else np.asarray(matrix)


def _check_matrix(value: Any, rule: dict) -> str | None:
    if rule.get("sparse") and getattr(value, "format", None) != "csr":
        return f"is {type(value).__name__}, not a CSR matrix"
    values = _values(value)
    if rule.get("dtype") and values.dtype != rule["dtype"]:
        return f"holds {values.dtype}, not {rule['dtype']}"
    return _check_number(values, rule)


def _check_number(value: Any, rule: dict) -> str | None:
    values = np.asarray(value)
    if not np.issubdtype(values.dtype, np.number):
        return f"holds {values.dtype}, not numbers"
    # sums of non-finite numbers are not finite: no boolean copy of a large matrix
    if values.size and not np.isfinite(values.sum(dtype="float64")):
        return "holds NaN or infinite values"
    if values.size and "minimum" in rule and values.min() < rule["minimum"]:
        return f"holds {values.min():g}, below {rule['minimum']}"
    return None


def _check_categorical(value: Any, rule: dict) -> str | None:
    if getattr(value, "dtype", None) != "category":
        return f"is {getattr(value, 'dtype', type(value).__name__)}, not categorical"
    if rule.get("complete") and value.isna().any():
        return f"is missing in {int(value.isna().sum())} cells"
    return None


def _check_flag(value: Any, _rule: dict) -> str | None:
    return None if np.asarray(value).dtype == bool else f"holds {np.asarray(value).dtype}, not true or false"


def _check_embedding(value: Any, rule: dict) -> str | None:
    if getattr(value, "ndim", 0) != 2 or value.shape[1] == 0:
        return f"has shape {getattr(value, 'shape', '?')}, not cells x dimensions"
    problem = _check_number(value, rule)
    if problem:
        return problem
    constant = np.flatnonzero(np.ptp(np.asarray(value), axis=0) == 0)
    if value.shape[0] > 1 and constant.size:
        return f"is the same for every cell in dimension {', '.join(map(str, constant[:5]))}"
    return None


def _check_graph(value: Any, rule: dict) -> str | None:
    if getattr(value, "format", None) != "csr" or value.shape[0] != value.shape[1]:
        return f"is {type(value).__name__} of shape {getattr(value, 'shape', '?')}, not a square CSR matrix"
    alone = np.flatnonzero(np.diff(value.indptr) == 0)
    if alone.size:
        return f"joins {alone.size} cells to no other"
    return _check_number(value.data, rule)


def _check_coordinates(value: Any, rule: dict) -> str | None:
    if getattr(value, "ndim", 0) != 2 or value.shape[1] not in (2, 3):
        return f"has shape {getattr(value, 'shape', '?')}, not cells x 2 (or 3)"
    if np.issubdtype(value.dtype, np.number) and (lost := int((~np.isfinite(value)).any(axis=1).sum())):
        return (
            f"holds NaN or infinite values in {lost} of {len(value)} cells; leave these out, or put them into a "
            "dataset of their own, which fit-dpvae --apply places by a model of the others"
        )
    return _check_number(value, rule)


def _check_mapping(value: Any, rule: dict) -> str | None:
    absent = [key for key in rule.get("keys", []) if key not in value]
    return f"lacks {', '.join(absent)}" if absent else None


_CHECKS = {
    "matrix": _check_matrix,
    "number": _check_number,
    "categorical": _check_categorical,
    "flag": _check_flag,
    "embedding": _check_embedding,
    "graph": _check_graph,
    "coordinates": _check_coordinates,
    "mapping": _check_mapping,
    "any": lambda _value, _rule: None,
}
