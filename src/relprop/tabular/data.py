"""Tables from files and from scikit-learn, and models that are fitted on them."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError, nearest
from relprop.extras import require

Array = npt.NDArray[Any]

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
#: Data sets that lie inside scikit-learn's own package, so that none is downloaded.
BUILT_IN = ("breast-cancer", "iris", "wine", "diabetes")


@dataclass(frozen=True)
class Data:
    """A table: `values` [N, columns] and the label column, if one was named.

    values   numbers; where columns of words are among them, numbers and words as objects. A gap is NaN, or None
    label    [N], numbers for a regression, class indices for a classification
    classes  names of the classes, in the order of the indices; None for a regression
    """

    name: str
    columns: tuple[str, ...]
    values: Array
    label_name: str | None = None
    label: Array | None = None
    classes: tuple[str, ...] | None = None

    @property
    def words(self) -> list[int]:
        """The positions of the columns of words."""
        if self.values.dtype != object:
            return []
        return [i for i, column in enumerate(self.values.T) if any(isinstance(v, str) for v in column)]


def read_table(source: str, label: str | None = None) -> Data:
    """A CSV file with a header line, or one of the built-in tables.

    label  the column to predict; the others are features. A label of words, or of at most ten whole numbers, is a class

    Raises:
        InputError: for a file that is no table, a column of numbers that holds something else here and there, or one
            that is not there (with the nearest names).
    """
    if source in BUILT_IN and not Path(source).exists():
        return _built_in(source)
    path = Path(source)
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = [row for row in csv.reader(opened) if row]
    except FileNotFoundError:
        raise InputError(f"no table at {source}: no such file (built-in ones: {', '.join(BUILT_IN)})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        picture = "; for a picture: relprop explain" if path.suffix.lower() in _PICTURES else ""
        raise InputError(
            f"{source} is no table: it takes a CSV file, text in UTF-8 with a header line{picture} ({error})"
        ) from None
    except OSError as error:
        raise InputError(f"the table {source} cannot be read: {error}") from None
    if len(rows) < 2:
        raise InputError(f"the table {source} needs a header line and at least one row, it has {len(rows)} lines")
    header, body = [c.strip() for c in rows[0]], rows[1:]
    for number, row in enumerate(body, 2):
        if len(row) != len(header):
            raise InputError(f"{source}, row {number}: {len(row)} entries under {len(header)} columns")
    if len(set(header)) != len(header):
        twice = next(c for c in header if header.count(c) > 1)
        raise InputError(f"{source}: column {twice!r} is there twice")
    if label is not None and label not in header:
        raise InputError(f"{source} has no column {label!r}{nearest(label, header[::-1], listed=3)}")
    kept = [i for i, c in enumerate(header) if c != label]
    if not kept:
        raise InputError(f"{source}: no column is left beside the label {label!r}")
    columns = tuple(header[i] for i in kept)
    read = [_column([row[i].strip() for row in body], source, header[i]) for i in kept]
    kind = object if any(column.dtype == object for column in read) else np.float64
    values = np.stack([column.astype(kind) for column in read], axis=1)
    if label is None:
        return Data(path.stem, columns, values)
    at = header.index(label)
    target, classes = _labels([row[at].strip() for row in body])
    return Data(path.stem, columns, values, label, target, classes)


def _column(texts: list[str], source: str, name: str) -> Array:
    """A column's numbers, or its words where most of it are no numbers."""
    numbers = [_number(text) for text in texts]
    wrong = [i for i, (text, number) in enumerate(zip(texts, numbers, strict=True)) if text and number is None]
    if not wrong:
        return np.array([np.nan if number is None else number for number in numbers])
    if 2 * len(wrong) < sum(text != "" for text in texts):
        raise InputError(f"{source}, row {wrong[0] + 2}, column {name!r} holds {texts[wrong[0]]!r}, which is no number")
    return np.array([text or None for text in texts], dtype=object)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _labels(texts: list[str]) -> tuple[Array, tuple[str, ...] | None]:
    try:
        numbers = np.array([float(t) for t in texts])
    except ValueError:
        names = sorted(set(texts))
        return np.array([names.index(t) for t in texts]), tuple(names)
    distinct = np.unique(numbers)
    if len(distinct) <= 10 and np.array_equal(distinct, distinct.round()):
        return np.searchsorted(distinct, numbers), tuple(f"{v:g}" for v in distinct)
    return numbers, None


def _built_in(name: str) -> Data:
    datasets = require("sklearn.datasets", "tabular", f"the table {name!r}")
    found = getattr(datasets, f"load_{name.replace('-', '_')}")()
    classes = tuple(str(c) for c in found.target_names) if name != "diabetes" else None
    return Data(name, tuple(found.feature_names), np.asarray(found.data), "target", np.asarray(found.target), classes)


@dataclass(frozen=True)
class Fitted:
    """A scikit-learn pipeline fitted on part of a table, and how it does on the rest."""

    pipeline: Any
    described: str
    test_rows: Array


def fit(kind: str, data: Data) -> Fitted:
    """Fit a standard scaler and a model on three quarters of a table: "mlp" or "linear".

    The same table gives the same model.
    """
    if data.label is None:
        raise InputError(f'model "{kind}" is fitted on the table: say which column it is to predict, --label COLUMN')
    purpose = f"fitting the model {kind!r}"
    linear_model, neural = (require(f"sklearn.{m}", "tabular", purpose) for m in ("linear_model", "neural_network"))
    pipeline, selection, scale = (
        require(f"sklearn.{m}", "tabular", purpose) for m in ("pipeline", "model_selection", "preprocessing")
    )
    if len(data.values) < 20:
        raise InputError(f"the table has {len(data.values)} rows; to fit a model it needs at least 20")
    classes = data.classes is not None
    if classes and len(np.unique(data.label)) < 2:
        raise InputError(f"the label {data.label_name!r} is the same in every row: there is nothing to learn")
    _check_complete(data)
    train, test = selection.train_test_split(np.arange(len(data.values)), test_size=0.25, random_state=0)
    label = data.label[train]
    if kind == "mlp":
        make = neural.MLPClassifier if classes else neural.MLPRegressor
        model = make(hidden_layer_sizes=(32, 16), solver="lbfgs", alpha=10.0, max_iter=200, random_state=0)
        words = "a network with 32 and 16 hidden units"
    else:
        model = linear_model.LogisticRegression(max_iter=1000) if classes else linear_model.Ridge()
        words = "a logistic regression" if classes else "a ridge regression"
    made = pipeline.make_pipeline(_scaled(data, scale), model)
    mean, spread = (0.0, 1.0) if classes or kind != "mlp" else (float(label.mean()), float(label.std()) or 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it could be fitted still closer: what is said is how it does on new rows
        made.fit(data.values[train], label if classes else (label - mean) / spread)
    if spread != 1.0:  # a network is fitted on a label of spread one, and its last layer then brings it back
        model.coefs_[-1] = model.coefs_[-1] * spread
        model.intercepts_[-1] = model.intercepts_[-1] * spread + mean
    score = made.score(data.values[test], data.label[test])
    how = f"right on {score:.1%} of" if classes else f"R² of {score:.2f} on"
    return Fitted(made, f"{words}, fitted on {len(train)} rows, {how} the other {len(test)}", np.sort(test))


def _check_complete(data: Data) -> None:
    """A table to fit a model on has no gaps, and its words come again."""
    for i, name in enumerate(data.columns):
        column = data.values[:, i]
        gaps = [n for n, v in enumerate(column) if v is None or (not isinstance(v, str) and not np.isfinite(float(v)))]
        if gaps:
            seen = "nothing" if column[gaps[0]] is None or np.isnan(float(column[gaps[0]])) else str(column[gaps[0]])
            raise InputError(
                f"{data.name}, row {gaps[0] + 2}, column {name!r} holds {seen}, which is no number: fill it in, or "
                "give a pipeline that does, --model FILE.py:FACTORY"
            )
        if i in data.words and 2 * len(set(column)) > len(column):
            raise InputError(
                f"{data.name}, column {name!r} holds {len(set(column))} different words in {len(column)} rows, which "
                "tells nothing of new ones: leave it out of the table"
            )


def _scaled(data: Data, preprocessing: Any) -> Any:
    """A standard scaler; with columns of words, beside a one-hot encoding of these."""
    words = data.words
    if not words:
        return preprocessing.StandardScaler()
    compose = require("sklearn.compose", "tabular", "encoding columns of words")
    numbers = [i for i in range(len(data.columns)) if i not in words]
    branches = [("words", preprocessing.OneHotEncoder(handle_unknown="ignore"), words)]
    return compose.ColumnTransformer([("numbers", preprocessing.StandardScaler(), numbers), *branches])
