"""What a pipeline does to its columns before the network: run by scikit-learn itself, and undone for relevance.

A step that goes column by column (a scaler, an imputer, an encoder, a selection) leaves every number it makes with one
column of the table: relevance of that number is relevance of the column, so one-hot columns are summed to theirs. A
step that mixes columns by a linear map (PCA) becomes a layer of the network. Others cannot be converted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.extras import require

Array = npt.NDArray[Any]

_SCALERS = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler")
#: Transformers of scikit-learn that make one number of each.
_ONE_TO_ONE = (*_SCALERS, "PowerTransformer", "QuantileTransformer", "Binarizer", "OrdinalEncoder")
#: Transformers that make as many of each column, in the columns' order.
_EQUAL_PARTS = ("SplineTransformer", "TargetEncoder")
#: Transformers whose outputs bear the names of columns, or those of columns after "missingindicator_".
_NAMED = ("SimpleImputer", "KNNImputer", "IterativeImputer", "MissingIndicator")


@dataclass(frozen=True)
class Prepared:
    """The steps before the network.

    encode  from rows as they are, [N, columns] of a frame or array, to numbers
    origin  [K]: the column that each number comes from
    weight, bias  a linear map of these numbers, [M, K] and [M], where a step mixes them; else None
    """

    encode: Callable[[Any], Any]
    origin: Array
    weight: Array | None = None
    bias: Array | None = None

    @property
    def width(self) -> int:
        """How many numbers come out."""
        return len(self.origin) if self.weight is None else len(self.weight)


def prepared(steps: Sequence[tuple[str, Any]], columns: int) -> Prepared:
    """The steps of a pipeline before its last, on a table of so many columns.

    Raises:
        InputError: for a step that cannot be converted, or is not fitted.
    """
    found = Prepared(_as_they_are, np.arange(columns))
    for name, step in steps:
        if step is not None and not (isinstance(step, str) and step == "passthrough"):
            found = _after(found, name, step)
    return found


def dense(made: Any) -> Array:
    """What a transformer made as an array."""
    made = made.toarray() if hasattr(made, "toarray") else made
    return np.asarray(made.to_numpy() if hasattr(made, "to_numpy") else made)


def fitted(step: Any, name: str, attribute: str) -> Array:
    value = getattr(step, attribute, None)
    if value is None:
        raise InputError(f"step {name!r}: this {type(step).__name__} is not fitted; call fit first")
    return np.asarray(value, dtype=np.float64)


def scaling(name: str, step: Any) -> tuple[Array, Array]:
    """Scale and shift of a scaler: what it makes of x is `scale * x + shift`."""
    kind = type(step).__name__
    if kind not in _SCALERS:
        raise InputError(f"step {name!r}: a {kind} is not one affine map; there are {', '.join(_SCALERS)}")
    width = int(fitted(step, name, "n_features_in_"))
    ones, zeros = np.ones(width), np.zeros(width)
    if getattr(step, "clip", False):
        raise InputError(f"step {name!r}: {kind}(clip=True) is not one affine map; fit it with clip=False")
    if kind == "StandardScaler":
        scale = 1.0 / fitted(step, name, "scale_") if step.with_std else ones
        return scale, -fitted(step, name, "mean_") * scale if step.with_mean else zeros
    if kind == "MinMaxScaler":
        return fitted(step, name, "scale_"), fitted(step, name, "min_")
    if kind == "MaxAbsScaler":
        return 1.0 / fitted(step, name, "scale_"), zeros
    scale = 1.0 / fitted(step, name, "scale_") if step.with_scaling else ones
    return scale, -fitted(step, name, "center_") * scale if step.with_centering else zeros


# -- one step after others ---------------------------------------------------------------------------------------------


def _after(before: Prepared, name: str, step: Any) -> Prepared:
    kind = type(step).__name__
    if before.weight is None:
        if kind in ("ColumnTransformer", "FeatureUnion"):
            return _side_by_side(before, _branches(name, step, before.width))
        origin = _origin(name, step, before.width)
        if origin is not None:
            return Prepared(_then(before.encode, partial(_run, step=step)), before.origin[origin])
        if kind == "PCA":  # centring goes column by column: how far a number lies from its mean is what counts
            mean = fitted(step, name, "mean_")
            before = Prepared(_then(before.encode, partial(_minus, mean=mean)), before.origin)
            return _mixed(before, _components(name, step), np.zeros(step.n_components_))
    return _mixed(before, *_linear(name, step))


def _mixed(before: Prepared, weight: Array, bias: Array) -> Prepared:
    if before.weight is not None and before.bias is not None:
        weight, bias = weight @ before.weight, weight @ before.bias + bias
    return Prepared(before.encode, before.origin, weight, bias)


def _linear(name: str, step: Any) -> tuple[Array, Array]:
    """Weight and bias of a step that is a linear map of numbers that are mixed already."""
    kind = type(step).__name__
    if kind == "PCA":
        weight = _components(name, step)
        return weight, -weight @ fitted(step, name, "mean_")
    if kind == "TruncatedSVD":
        weight = fitted(step, name, "components_")
        return weight, np.zeros(len(weight))
    if hasattr(step, "get_support"):
        kept = step.get_support(indices=True)
        return np.eye(int(fitted(step, name, "n_features_in_")))[kept], np.zeros(len(kept))
    if kind in _SCALERS:
        scale, shift = scaling(name, step)
        return np.diag(scale), shift
    raise InputError(
        f"step {name!r} ({kind}) cannot be converted: there are scalers, imputers, encoders, selections and others "
        'that go column by column, ColumnTransformer, FeatureUnion, PCA, TruncatedSVD and "passthrough"; behind a step '
        "that mixes columns, linear maps alone. Apply it before, and explain the rest of the pipeline"
    )


def _components(name: str, step: Any) -> Array:
    weight = fitted(step, name, "components_")
    return weight / np.sqrt(step.explained_variance_)[:, None] if step.whiten else weight


# -- which column a number comes from ----------------------------------------------------------------------------------


def _origin(name: str, step: Any, width: int) -> Array | None:
    """The input column of each output of a step that goes column by column; None for another step."""
    kind, columns = type(step).__name__, np.arange(width)
    if kind == "FunctionTransformer":
        return columns if _one_to_one(step) else None
    if kind not in (*_ONE_TO_ONE, *_EQUAL_PARTS, *_NAMED, "OneHotEncoder", "KBinsDiscretizer") and not (
        hasattr(step, "get_support")
    ):
        return None
    if int(fitted(step, name, "n_features_in_")) != width:
        raise InputError(f"step {name!r} was fitted on {step.n_features_in_} columns, {width} come to it")
    if kind in _ONE_TO_ONE or (kind == "KBinsDiscretizer" and step.encode == "ordinal"):
        return columns
    if hasattr(step, "get_support"):
        return np.asarray(step.get_support(indices=True))
    if kind == "KBinsDiscretizer":
        return np.repeat(columns, step.n_bins_)
    if kind == "OneHotEncoder":
        return np.repeat(columns, [_categories(step, i) for i in range(width)])
    names = [str(n) for n in getattr(step, "feature_names_in_", [f"x{i}" for i in columns])]
    made = [str(n) for n in step.get_feature_names_out()]
    if kind in _NAMED:
        return np.array([names.index(n if n in names else n.removeprefix("missingindicator_")) for n in made], int)
    return np.repeat(columns, len(made) // width)


def _categories(step: Any, column: int) -> int:
    """How many columns a one-hot encoder makes of one."""
    count = len(step.categories_[column])
    rare = getattr(step, "infrequent_categories_", None)
    if rare is not None and rare[column] is not None:
        count -= len(rare[column]) - 1  # they share one
    return count - (step.drop_idx_ is not None and step.drop_idx_[column] is not None)


def _one_to_one(step: Any) -> bool:
    """Whether a function goes column by column, as far as it says so."""
    function = step.func
    return (
        function is None
        or (isinstance(function, np.ufunc) and function.nin == 1)
        or (isinstance(step.feature_names_out, str) and step.feature_names_out == "one-to-one")
    )


# -- branches ----------------------------------------------------------------------------------------------------------


def _branches(name: str, step: Any, width: int) -> list[tuple[Array, Prepared, float]]:
    """What runs beside each other: the columns that each takes, what it does, and its weight in the whole."""
    columns = int(fitted(step, name, "n_features_in_"))
    if columns != width:
        raise InputError(f"step {name!r} was fitted on {columns} columns, {width} come to it")
    names = [str(n) for n in getattr(step, "feature_names_in_", [])]
    weights = step.transformer_weights or {}
    listed: list[Any] = getattr(step, "transformers_", None) or [(n, s, range(width)) for n, s in step.transformer_list]
    found = []
    for inner, made, wanted in listed:
        taken = _indices(wanted, names, width)
        if not (isinstance(made, str) and made == "drop") and len(taken):
            steps = [(f"{name}.{n}", s) for n, s in steps_of(made, inner)]
            found.append((taken, prepared(steps, len(taken)), float(weights.get(inner, 1.0))))
    return found


def steps_of(estimator: Any, name: str = "") -> list[tuple[str, Any]]:
    """The steps of an estimator, nested pipelines and the best of a search laid out."""
    if hasattr(estimator, "best_estimator_"):
        return steps_of(estimator.best_estimator_, name)
    if not hasattr(estimator, "steps"):
        return [(name or type(estimator).__name__, estimator)]
    return [s for inner, step in estimator.steps for s in steps_of(step, f"{name}.{inner}" if name else inner)]


def _indices(wanted: Any, names: Sequence[str], width: int) -> Array:
    """The positions of the columns that a ColumnTransformer gives to a branch."""
    if isinstance(wanted, slice):
        if isinstance(wanted.start, str) or isinstance(wanted.stop, str):  # by label, and then with its end
            start = 0 if wanted.start is None else names.index(str(wanted.start))
            stop = width if wanted.stop is None else names.index(str(wanted.stop)) + 1
            return np.arange(width)[start : stop : wanted.step]
        return np.arange(width)[wanted]
    listed = [wanted] if isinstance(wanted, (str, int)) else list(wanted)
    if listed and all(isinstance(c, (bool, np.bool_)) for c in listed):
        return np.flatnonzero(listed)
    return np.array([names.index(c) if isinstance(c, str) else int(c) % width for c in listed], dtype=int)


def _side_by_side(before: Prepared, branches: Sequence[tuple[Array, Prepared, float]]) -> Prepared:
    encode = _then(before.encode, partial(_beside, branches=branches))
    origin = np.concatenate([before.origin[taken][branch.origin] for taken, branch, _ in branches])
    if all(branch.weight is None for _, branch, _ in branches):
        return Prepared(encode, origin)
    weight = np.zeros((sum(branch.width for _, branch, _ in branches), len(origin)))
    bias, row, column = np.zeros(len(weight)), 0, 0
    for _, branch, factor in branches:
        part: Any = np.eye(branch.width) if branch.weight is None else factor * branch.weight
        weight[row : row + len(part), column : column + part.shape[1]] = part
        if branch.bias is not None:
            bias[row : row + len(part)] = factor * branch.bias
        row, column = row + len(part), column + part.shape[1]
    return Prepared(encode, origin, weight, bias)


# -- on rows -----------------------------------------------------------------------------------------------------------


def _as_they_are(rows: Any) -> Any:
    return rows


def _then(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda rows: second(first(rows))


def _run(rows: Any, step: Any) -> Any:
    """A transformer on what it was fitted on: a frame of the same names, or an array."""
    names = getattr(step, "feature_names_in_", None)
    if names is None:
        return step.transform(rows.to_numpy() if hasattr(rows, "iloc") else rows)
    if not hasattr(rows, "iloc"):
        pandas = require("pandas", "tabular", "a pipeline that was fitted on a DataFrame")
        rows = pandas.DataFrame(dense(rows), columns=names).infer_objects()
    return step.transform(rows)


def _minus(rows: Any, mean: Array) -> Array:
    return dense(rows).astype(np.float64) - mean


def _beside(rows: Any, branches: Sequence[tuple[Array, Prepared, float]]) -> Array:
    """The numbers of all branches; what a linear map weighs later is not weighed here."""
    parts = []
    for taken, branch, factor in branches:
        made = dense(branch.encode(rows.iloc[:, taken] if hasattr(rows, "iloc") else dense(rows)[:, taken]))
        made = made.astype(np.float64)
        parts.append(made * factor if branch.weight is None else made)
    return np.concatenate(parts, axis=1)
