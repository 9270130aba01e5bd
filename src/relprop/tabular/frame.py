"""From arrays and frames to tensors: what does not fit is said by the names of columns and rows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError

Array = npt.NDArray[Any]


class Table(NamedTuple):
    """Instances as they were given.

    values  an array, [N, ...]; numbers alone, unless a pipeline is to encode them
    labels  what the rows are called, where a frame or series said so
    rows    what a pipeline takes: the frame, or the array
    """

    values: Array
    labels: list[Any] | None
    rows: Any


def is_frame(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "to_numpy")


def is_series(data: Any) -> bool:
    return hasattr(data, "index") and hasattr(data, "to_numpy") and not hasattr(data, "columns")


def batch(data: Any, names: Sequence[str] | None, *, encoded: bool = False) -> Table:
    """Many instances: an array, a frame with the columns `names` in that order, or dicts by these names.

    encoded  a pipeline takes them first, so that they may hold text and gaps
    """
    if is_frame(data):
        columns = list(map(str, data.columns))
        check_columns(columns, names)
        values = data.to_numpy() if encoded else _numbers(data.to_numpy(), columns)
        return Table(values, list(data.index), data)
    if isinstance(data, Sequence) and len(data) and all(isinstance(row, Mapping) for row in data):
        data = _from_dicts(data, names)
    values = _array(data)
    values = values if encoded else _numbers(values, names)
    if values.ndim < 2:
        raise InputError(
            f"a batch has its instances in rows, got an array of shape {values.shape}; explain() takes one"
        )
    return Table(_counted(values, names), None, values)


def single(data: Any, names: Sequence[str] | None, *, encoded: bool = False) -> Table:
    """One instance: an array without a batch dimension, a series, a dict by the features' names, or a frame of one row.

    Of a table's model (`encoded`) an array of one row will do as well.
    """
    if is_frame(data):
        if len(data) != 1:
            raise InputError(f"explain() takes one instance, got a frame of {len(data)} rows; explain_batch takes many")
        return batch(data, names, encoded=encoded)
    if isinstance(data, Mapping):
        return batch([data], names, encoded=encoded)
    if is_series(data):
        index = [str(i) for i in data.index]
        if names is not None and index != [str(i) for i in range(len(data))]:
            check_columns(index, names)
        found = batch(data.to_numpy()[None], names, encoded=encoded)
        rows = data.to_frame().T.infer_objects() if index == list(names or ()) else found.rows
        return Table(found.values, [data.name], rows)
    values = _array(data)
    if values.ndim == 0:
        raise InputError("an instance needs at least one feature, got a single number")
    one_row = encoded and values.ndim == 2 and len(values) == 1
    return batch(values if one_row else values[None], names, encoded=encoded)


def _array(data: Any) -> Array:
    """As an array; a list of text and numbers keeps both."""
    if hasattr(data, "detach"):
        return np.asarray(data.detach().cpu())
    found = np.asarray(data)
    return np.array(data, dtype=object) if found.dtype.kind in "US" and not isinstance(data, np.ndarray) else found


def _from_dicts(rows: Sequence[Mapping[Any, Any]], names: Sequence[str] | None) -> Array:
    """The values of dicts in the order of the names; of the first dict's keys where there are none."""
    given = [{str(k): v for k, v in row.items()} for row in rows]
    wanted = list(names) if names is not None else list(given[0])
    for row in given:
        check_columns([n for n in wanted if n in row] + [n for n in row if n not in wanted], wanted)
    return np.array([[row[n] for n in wanted] for row in given], dtype=object)


def check_columns(found: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Refuse columns that are missing, too many, or in another order."""
    if wanted is None or list(found) == list(wanted):
        return
    missing = [n for n in wanted if n not in found]
    further = [n for n in found if n not in wanted]
    if missing:
        near = {n: difflib.get_close_matches(n, further, 1) for n in missing[:5]}
        shown = ", ".join(f"{n!r} (nearest: {m[0]!r})" if m else repr(n) for n, m in near.items())
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(f"columns are missing: {shown}{more}")
    if further:
        raise InputError(f"columns the model does not know: {', '.join(map(repr, further[:5]))}; drop them")
    if len(set(found)) != len(found):
        twice = next(n for n in found if list(found).count(n) > 1)
        raise InputError(f"column {twice!r} is there twice")
    i = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
    raise InputError(
        f"columns are in another order than the model's: column {i} is {found[i]!r}, the model has {wanted[i]!r}. "
        "Take frame[list(explainer.feature_names)]"
    )


def _counted(values: Array, names: Sequence[str] | None) -> Array:
    size = int(np.prod(values.shape[1:]))
    if names is not None and size != len(names):
        raise InputError(f"an instance has {size} features (shape {values.shape[1:]}), the names are {len(names)}")
    return values


def _numbers(values: Array, names: Sequence[str] | None) -> Array:
    """As floating numbers, all of them finite."""

    def column(i: int) -> str:
        return repr(names[i]) if names is not None and i < len(names) else str(i)

    if values.dtype.kind not in "fiub":
        for i in range(values.shape[-1] if values.ndim == 2 else 0):
            try:
                np.asarray(values[:, i], dtype=np.float64)
            except (TypeError, ValueError):
                bad = next(v for v in values[:, i] if not _is_number(v))
                raise InputError(
                    f"column {column(i)} holds {str(bad)!r}, which is no number: encode it first"
                ) from None
        try:
            values = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(f"the instances hold no numbers (dtype {values.dtype})") from None
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row, *rest = (int(i[0]) for i in np.nonzero(bad))
        where = f"column {column(rest[0])}" if len(rest) == 1 else f"entry {tuple(rest)}"
        raise InputError(
            f"{int(bad.sum())} entries are NaN or infinite, the first in row {row}, {where}: clean them first"
        )
    return values


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
