"""scikit-learn estimators as torch modules, in double precision, ending in scores rather than probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.extras import require

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


class Affine(nn.Module):
    """`scale * x + shift`, feature by feature."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Any, shift: Any) -> None:
        super().__init__()
        self.register_buffer("scale", _tensor(scale))
        self.register_buffer("shift", _tensor(shift))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Converted(nn.Module):
    """What a scikit-learn estimator computes.

    prepare  the scalers at the beginning. They go feature by feature, so relevance at what they make is relevance of
             the features; how far a feature lies from its mean is what counts, not how far from zero
    core     the rest: linear maps and activations, without a final softmax or logistic function. A binary classifier's
             one margin m becomes the two scores -m and m, so that either class can be explained by any rule
    task     "classification" or "regression"
    features, classes  the names the estimator was fitted with, if it knows any
    """

    def __init__(
        self,
        prepare: nn.Sequential,
        core: nn.Sequential,
        task: str,
        features: list[str] | None,
        classes: list[str] | None,
    ) -> None:
        super().__init__()
        self.prepare, self.core = prepare, core
        self.task, self.features, self.classes = task, features, classes

    def forward(self, x: Tensor) -> Tensor:
        return self.core(self.prepare(x))


def from_sklearn(estimator: Any) -> Converted:
    """A torch module that gives an estimator's scores: logits of a classifier, predictions of a regressor.

    Of a binary classifier the scores are minus and plus its margin.

    Converted are `MLPClassifier`, `MLPRegressor` and linear models, alone or at the end of a `Pipeline` of
    `StandardScaler`, `MinMaxScaler`, `MaxAbsScaler`, `RobustScaler`, `PCA`, and steps that are passed through.

    Raises:
        InputError: for a step that cannot be converted, or is not fitted.
    """
    require("sklearn", "tabular", "converting an estimator of scikit-learn")
    steps = _steps(estimator)
    prepare: list[nn.Module] = []
    core: list[Any] = []
    for name, step in steps[:-1]:
        made = _transformer(name, step)
        if made is None:
            continue
        (prepare if isinstance(made, Affine) and not core else core).append(made)
    name, last = steps[-1]
    core += _final(name, last)
    classes = getattr(last, "classes_", None)
    if classes is not None and len(classes) == 2 and core[-1].out_features == 1:
        margin = core.pop()
        core.append(_linear(torch.cat([-margin.weight, margin.weight]), torch.cat([-margin.bias, margin.bias])))
    features = next((f for _, s in steps if (f := getattr(s, "feature_names_in_", None)) is not None), None)
    return Converted(
        nn.Sequential(*prepare),
        nn.Sequential(*core),
        "regression" if classes is None else "classification",
        None if features is None else [str(f) for f in features],
        None if classes is None else [str(c) for c in classes],
    ).eval()


def _steps(estimator: Any, name: str = "") -> list[tuple[str, Any]]:
    """The steps of an estimator, nested pipelines laid out."""
    if not hasattr(estimator, "steps"):
        return [(name or type(estimator).__name__, estimator)]
    found: list[tuple[str, Any]] = []
    for inner, step in estimator.steps:
        found += _steps(step, f"{name}.{inner}" if name else inner)
    return found


def _transformer(name: str, step: Any) -> nn.Module | None:
    kind = type(step).__name__
    if step is None or step == "passthrough":
        return None
    if kind == "StandardScaler":
        scale = 1.0 / _fitted(step, name, "scale_") if step.with_std else np.ones(_width(step, name))
        mean = _fitted(step, name, "mean_") if step.with_mean else 0.0
        return Affine(scale, -mean * scale)
    if kind == "MinMaxScaler":
        if step.clip:
            raise InputError(f"step {name!r}: MinMaxScaler(clip=True) is not one affine map; fit it with clip=False")
        return Affine(_fitted(step, name, "scale_"), _fitted(step, name, "min_"))
    if kind == "MaxAbsScaler":
        if getattr(step, "clip", False):
            raise InputError(f"step {name!r}: MaxAbsScaler(clip=True) is not one affine map; fit it with clip=False")
        return Affine(1.0 / _fitted(step, name, "scale_"), np.zeros(_width(step, name)))
    if kind == "RobustScaler":
        width = _width(step, name)
        scale = 1.0 / _fitted(step, name, "scale_") if step.with_scaling else np.ones(width)
        centre = _fitted(step, name, "center_") if step.with_centering else np.zeros(width)
        return Affine(scale, -centre * scale)
    if kind == "PCA":
        components = _fitted(step, name, "components_")
        if step.whiten:
            components = components / np.sqrt(step.explained_variance_)[:, None]
        return _linear(components, -components @ step.mean_)
    raise InputError(
        f"step {name!r} ({kind}) cannot be converted: there are StandardScaler, MinMaxScaler, MaxAbsScaler, "
        'RobustScaler, PCA and "passthrough". Apply it before, and explain the rest of the pipeline'
    )


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
    if kind.startswith(("MLP", "Linear", "Logistic", "Ridge")):
        raise InputError(f"step {name!r}: this {kind} is not fitted; call fit first")
    raise InputError(
        f"step {name!r} ({kind}) cannot be converted: there are MLPClassifier, MLPRegressor and linear models. "
        "For trees and kernels there is no relevance propagation here"
    )


def _fitted(step: Any, name: str, attribute: str) -> np.ndarray[Any, Any]:
    value = getattr(step, attribute, None)
    if value is None:
        raise InputError(f"step {name!r}: this {type(step).__name__} is not fitted; call fit first")
    return np.asarray(value, dtype=np.float64)


def _width(step: Any, name: str) -> int:
    return int(_fitted(step, name, "n_features_in_"))


def _linear(weight: Any, bias: Any) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0]).double().requires_grad_(False)
    made.weight.copy_(_tensor(weight))
    made.bias.copy_(_tensor(bias))
    return made


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return torch.tensor(np.array(values, dtype=np.float64))
