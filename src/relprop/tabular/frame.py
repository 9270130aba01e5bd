"""From arrays and frames to tensors: what does not fit is said by the names of columns and rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError

Array = npt.NDArray[Any]


class Table(NamedTuple):
    """Numbers, [N, ...], and the rows' labels where a frame gave some."""

    values: Array
    labels: list[Any] | None


def is_frame(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "to_numpy")


def is_series(data: Any) -> bool:
    return hasattr(data, "index") and hasattr(data, "to_numpy") and not hasattr(data, "columns")


def batch(data: Any, names: Sequence[str] | None, shape: tuple[int, ...] | None = None) -> Table:
    """Many instances. A frame must have the columns `names`, in that order."""
    if is_frame(data):
        check_columns(list(map(str, data.columns)), names)
        return Table(_numbers(data.to_numpy(), list(map(str, data.columns))), list(data.index))
    values = _numbers(np.asarray(data), names)
    if values.ndim < 2:
        raise InputError(
            f"a batch has its instances in rows, got an array of shape {values.shape}; explain() takes one"
        )
    return Table(_counted(values, names), None)


def single(data: Any, names: Sequence[str] | None) -> Table:
    """One instance: an array without a batch dimension, a series, or a frame of one row."""
    if is_frame(data):
        if len(data) != 1:
            raise InputError(f"explain() takes one instance, got a frame of {len(data)} rows; explain_batch takes many")
        return batch(data, names)
    if is_series(data):
        if names is not None and [str(i) for i in data.index] != [str(i) for i in range(len(data))]:
            check_columns([str(i) for i in data.index], names)
        values = _numbers(data.to_numpy()[None], names)
        return Table(_counted(values, names), [data.name])
    values = np.asarray(data)
    if values.ndim == 0:
        raise InputError("an instance needs at least one feature, got a single number")
    return Table(_counted(_numbers(values[None], names), names), None)


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
