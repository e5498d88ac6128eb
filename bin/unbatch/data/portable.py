"""Contents of h5ad files in the form that every anndata since 0.8, R's readers and CELLxGENE take.

pandas 3 has its own type for text, and others for whole numbers and truth values that may be missing. anndata writes
them, and None, in encodings that older readers refuse.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unbatch.errors import InputError

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData

ENCODINGS = frozenset(
    {
        ("anndata", "0.1.0"),
        ("raw", "0.1.0"),
        ("dict", "0.1.0"),
        ("dataframe", "0.2.0"),
        ("categorical", "0.2.0"),
        ("array", "0.2.0"),
        ("string-array", "0.2.0"),
        ("rec-array", "0.2.0"),
        ("csr_matrix", "0.1.0"),
        ("csc_matrix", "0.1.0"),
        ("numeric-scalar", "0.2.0"),
        ("string", "0.2.0"),
    }
)
"""Types and versions that an element of a file can have: what anndata 0.8.0 reads, without its nullable integers and
truth values, which other readers lack."""

# Up to here float64 has every whole number.
_EXACT = 2**53


def categories_of_text(values: pd.Series) -> pd.Categorical:
    """Categories of text: in their own order if the column had one, else in order of appearance."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, found = values.cat.codes, values.cat.categories
    else:
        codes, found = pd.factorize(values)
    # a whole number is a float where another one is missing: convert_dtypes brings it back
    text = pd.Series(found).astype(object).convert_dtypes().astype("string")
    # what was different, such as 1 and "1", can have the same text; code -1 is a missing value
    recoded, names = pd.factorize(text)
    return pd.Categorical.from_codes(np.append(recoded, -1)[codes], names).remove_unused_categories()


def portable(values: Any) -> Any:
    """Return the values of a column, an index or an array in a form that every reader knows.

    Parameters
    ----------
    values
        One-dimensional array of numpy or pandas; anything else is returned as it is.

    Returns
    -------
    numpy.ndarray or pandas.Categorical
        Text without missing values: an object array of `str`. Nullable numbers: numbers of numpy, of their own type or
        float with NaN if some are missing. Everything else that is no number or truth value: categories of text, where
        a missing value has none; that includes text and truth values of which some are missing, dates, mixtures, and
        whole numbers above 2^53 of which some are missing, as no float holds them.
    """
    if isinstance(values, pd.Categorical):
        names = values.categories
        numbers = isinstance(names.dtype, np.dtype) and names.dtype.kind in "biuf"
        return values if numbers or _is_text(names) else categories_of_text(pd.Series(values))
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "OT" or values.ndim != 1:
            return values
        text = values.astype(object, copy=False)
        return text if _is_text(text) else categories_of_text(pd.Series(text, dtype=object))
    if not isinstance(values, pd.api.extensions.ExtensionArray):
        return values
    if isinstance(values, pd.arrays.SparseArray):
        return portable(values.to_dense())
    missing = values.isna().any()
    if isinstance(values.dtype, pd.StringDtype) and not missing:
        return values.to_numpy(dtype=object)
    if values.dtype.kind in "biuf" and hasattr(values.dtype, "numpy_dtype"):
        kind = values.dtype.numpy_dtype
        if kind.kind == "f" or not missing:
            return values.to_numpy(dtype=kind, na_value=np.nan) if missing else values.to_numpy(dtype=kind)
        known = values.dropna().to_numpy(dtype=kind)
        if kind.kind != "b" and ((known >= -_EXACT) & (known <= _EXACT)).all():
            return values.to_numpy(dtype=np.float64, na_value=np.nan)
    return categories_of_text(pd.Series(values))


def _is_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def write(file: "h5py.File", adata: "AnnData", **settings: Any) -> None:
    """Write annotated data to an open file.

    Text in `obs` and `var` that repeats becomes categories, as `AnnData.write_h5ad` has it. What is None is left out.

    Parameters
    ----------
    file
        A new HDF5 file.
    adata
        The content.
    settings
        Settings of HDF5 datasets, such as the compression.

    Raises
    ------
    InputError
        If an element has no form that older readers take.
    """
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    put(file, "/", adata, **settings)
    require_known(file)


def put(group: Any, key: str, value: Any, **settings: Any) -> None:
    """Write an element to a group of HDF5 or zarr; parameters as of `write`."""
    from anndata.experimental import write_dispatched

    def write_element(
        write_as_it_is: Callable[..., None],
        group: Any,
        key: str,
        value: Any,
        *,
        dataset_kwargs: Mapping[str, Any],
        **_encoding: Any,
    ) -> None:
        if value is None:
            return
        if isinstance(value, pd.DataFrame) and value.columns.is_unique:
            # here, as anndata does not get as far as to call this function for types that it does not know
            columns = {name: portable(column._values) for name, column in value.items()}
            value = pd.DataFrame(columns, index=value.index, columns=value.columns)
        plain = portable(value)
        if plain is value:
            write_as_it_is(group, key, value, dataset_kwargs=dataset_kwargs)
        else:
            write_dispatched(group, key, plain, callback=write_element, dataset_kwargs=dataset_kwargs)

    write_dispatched(group, key, value, callback=write_element, dataset_kwargs=settings)


def require_known(file: "h5py.File") -> None:
    """Check that some readers do not lack the encoding of an element.

    Raises
    ------
    InputError
        If they do.
    """
    foreign = foreign_elements(file)
    if foreign:
        name, encoding = next(iter(foreign.items()))
        raise InputError(
            f"{name} is of a type (encoding {' '.join(encoding)}) that older readers of h5ad files do not know, "
            "expected an array, a table, a sparse matrix, text or a number"
        )


def foreign_elements(file: "h5py.File") -> dict[str, tuple[str, str]]:
    """Find the elements of a file that some readers cannot read: encodings, by place, that `ENCODINGS` lacks."""
    found = {}

    def look(name: str, element: "h5py.Group | h5py.Dataset") -> None:
        about = element.attrs
        encoding = (str(about.get("encoding-type", "")), str(about.get("encoding-version", "")))
        if any(encoding) and encoding not in ENCODINGS:
            found[name] = encoding

    file.visititems(look)
    return found
