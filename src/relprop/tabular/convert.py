"""scikit-learn estimators as torch modules, in double precision, ending in scores rather than probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.extras import require
from relprop.tabular.prepare import Array, Prepared, dense, fitted, prepared, scaling, steps_of

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


class Converted(nn.Module):
    """What a scikit-learn estimator computes, in two parts: `made(made.prepare(rows))` are its scores.

    prepare  the steps at the beginning that go column by column, run by scikit-learn itself: scalers, imputers,
             encoders. What they make of a column is that column's, so `of_columns` sums relevance at it to the column;
             of a scaled one, how far it lies from its mean is what counts, not how far from zero
    core     the rest: linear maps and activations, without a final softmax or logistic function. A binary classifier's
             one margin m becomes the two scores -m and m, so that either class can be explained by any rule
    task     "classification" or "regression"
    features, classes  the names the estimator was fitted with, if it knows any
    columns  how many there are
    """

    def __init__(
        self,
        prepare: Prepared,
        core: nn.Sequential,
        task: str,
        columns: int,
        features: list[str] | None,
        classes: list[str] | None,
    ) -> None:
        super().__init__()
        self._prepared, self.core = prepare, core
        self.task, self.columns, self.features, self.classes = task, columns, features, classes

    def forward(self, x: Tensor) -> Tensor:
        return self.core(x)

    def prepare(self, rows: Any) -> Tensor:
        """What the network gets of rows as the estimator takes them, a frame or an array: [N, numbers].

        Raises:
            InputError: for rows that its steps cannot take, as an unknown category, or make NaN of.
        """
        try:
            made = dense(self._prepared.encode(rows)).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the pipeline cannot take these rows: {str(error).strip().splitlines()[0]}{self._words(rows)}"
            ) from error
        bad = ~np.isfinite(made)
        if bad.any():
            row, column = (int(i[0]) for i in np.nonzero(bad))
            origin = int(self._prepared.origin[column])
            named = repr(self.features[origin]) if self.features else str(origin)
            raise InputError(
                f"{int(bad.sum())} entries are NaN or infinite, the first in row {row}, column {named}: clean them "
                "first, or give the pipeline an imputer"
            )
        return torch.tensor(made)

    def of_columns(self, relevance: Tensor) -> Tensor:
        """Relevance of the columns, [N, columns], from that of what `prepare` made of them."""
        origin = torch.as_tensor(self._prepared.origin, device=relevance.device)
        return relevance.new_zeros(len(relevance), self.columns).index_add(1, origin, relevance)

    def _words(self, rows: Any) -> str:
        """Where text stands, for a message."""
        values = np.asarray(rows.to_numpy() if hasattr(rows, "to_numpy") else rows)
        at = [i for i in range(values.shape[1]) if any(isinstance(v, str) for v in values[:, i])]
        named = [repr(self.features[i]) if self.features else str(i) for i in at[:5]]
        return f" (text stands in column {', '.join(named)})" if named else ""


def from_sklearn(estimator: Any) -> Converted:
    """A torch module that gives an estimator's scores: logits of a classifier, predictions of a regressor.

    Of a binary classifier the scores are minus and plus its margin.

    Converted are `MLPClassifier`, `MLPRegressor` and linear models, alone or at the end of a `Pipeline`; a search over
    them (`GridSearchCV`) by its best estimator; a `TransformedTargetRegressor` with a scaler. Before the model may
    stand what goes column by column (scalers, imputers, encoders, selections, `ColumnTransformer` of them), and linear
    maps that mix columns (`PCA`, `TruncatedSVD`).

    Raises:
        InputError: for a step that cannot be converted, or is not fitted.
    """
    require("sklearn", "tabular", "converting an estimator of scikit-learn")
    if isinstance(estimator, type):
        raise InputError(f"{estimator.__name__} is a class: give a fitted estimator")
    given, back = _unwrapped(estimator)
    steps = steps_of(given)
    name, last = steps[-1]
    final = _final(name, last)
    columns = _columns(steps, final)
    before = prepared(steps[:-1], columns)
    core: list[Any] = final
    if before.weight is not None:
        core = [_linear(before.weight, before.bias), *core]
    if back is not None:
        scale, shift = back
        core[-1] = _linear(core[-1].weight.numpy() * scale[:, None], core[-1].bias.numpy() * scale + shift)
    classes = getattr(last, "classes_", None)
    if classes is not None and len(classes) == 2 and core[-1].out_features == 1:
        margin = core.pop()
        core.append(_linear(torch.cat([-margin.weight, margin.weight]), torch.cat([-margin.bias, margin.bias])))
    features = next((f for _, s in steps if (f := getattr(s, "feature_names_in_", None)) is not None), None)
    return Converted(
        before,
        nn.Sequential(*core),
        "regression" if classes is None else "classification",
        columns,
        None if features is None else [str(f) for f in features],
        None if classes is None else [str(c) for c in classes],
    ).eval()


def _unwrapped(estimator: Any) -> tuple[Any, tuple[Array, Array] | None]:
    """The regressor of a scaled target, and what brings that target back; any other estimator as it is."""
    if type(estimator).__name__ != "TransformedTargetRegressor":
        return estimator, None
    if not hasattr(estimator, "regressor_"):
        raise InputError("this TransformedTargetRegressor is not fitted; call fit first")
    transformer = estimator.transformer_
    if type(transformer).__name__ == "FunctionTransformer" and transformer.func is transformer.inverse_func is None:
        return estimator.regressor_, None
    scale, shift = scaling("transformer", transformer)
    return estimator.regressor_, (1.0 / scale, -shift / scale)


def _columns(steps: list[tuple[str, Any]], final: list[Any]) -> int:
    """How many columns the first step takes."""
    for name, step in steps[:-1]:
        if step is not None and not isinstance(step, str):
            width = getattr(step, "n_features_in_", None)
            if width is None and type(step).__name__ == "FunctionTransformer":
                continue
            return int(fitted(step, name, "n_features_in_"))
    return int(final[0].in_features)


def _final(name: str, step: Any) -> list[nn.Module]:
    kind = type(step).__name__
    if hasattr(step, "coefs_") and hasattr(step, "intercepts_"):
        layers: list[nn.Module] = []
        for weight, bias in zip(step.coefs_, step.intercepts_, strict=True):
            layers += [_linear(weight.T, bias), _ACTIVATIONS[step.activation]()]
        return layers[:-1]  # the output's softmax or logistic function is left out
    if hasattr(step, "coef_") and hasattr(step, "intercept_"):
        dual = getattr(step, "kernel", "linear") != "linear"
        squared = kind in ("PoissonRegressor", "GammaRegressor", "TweedieRegressor")
        if not dual and not squared:
            weight = np.atleast_2d(step.coef_)
            return [_linear(weight, np.broadcast_to(np.atleast_1d(step.intercept_), (len(weight),)))]
    if kind.endswith("SearchCV"):
        raise InputError(f"step {name!r}: this {kind} has no best estimator; call fit, with refit=True")
    if kind.startswith(("MLP", "Linear", "Logistic", "Ridge")):
        raise InputError(f"step {name!r}: this {kind} is not fitted; call fit first")
    raise InputError(
        f"step {name!r} ({kind}) cannot be converted: there are MLPClassifier, MLPRegressor and linear models. "
        "For trees and kernels there is no relevance propagation here"
    )


def _linear(weight: Any, bias: Any) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0]).double().requires_grad_(False)
    made.weight.copy_(_tensor(weight))
    made.bias.copy_(_tensor(bias))
    return made


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.tensor(np.array(values, dtype=np.float64))
