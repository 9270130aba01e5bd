"""scikit-learn's estimators as torch modules: the same predictions, and conserving explanations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import relprop as rp
from relprop.tabular import Explainer, from_sklearn

pytest.importorskip("sklearn", reason="converts estimators of scikit-learn")

from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_iris, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS = load_iris()
CANCER = load_breast_cancer()
REGRESSION = make_regression(120, 5, n_targets=2, noise=1.0, random_state=0)


def softmax(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_a_classifiers_probabilities(activation: str) -> None:
    made = MLPClassifier((8, 5), activation=activation, max_iter=30, random_state=0).fit(IRIS.data, IRIS.target)
    explainer = Explainer(made, IRIS.feature_names, IRIS.target_names.tolist())
    np.testing.assert_allclose(softmax(explainer.predict(IRIS.data)), made.predict_proba(IRIS.data), rtol=1e-9)
    found = explainer.explain_batch(IRIS.data)
    assert found.targets == made.predict(IRIS.data).tolist()
    assert found[0].target_name in IRIS.target_names


@pytest.mark.parametrize(
    "scaler",
    [
        StandardScaler(),
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        MinMaxScaler((-1, 1)),
        MaxAbsScaler(),
        RobustScaler(),
        RobustScaler(with_centering=False),
        "passthrough",
        Pipeline([("a", StandardScaler()), ("b", MinMaxScaler())]),
    ],
    ids=str,
)
@pytest.mark.parametrize("pca", [None, PCA(6), PCA(6, whiten=True)], ids=["plain", "pca", "whitened"])
def test_a_binary_pipeline(scaler: Any, pca: Any) -> None:
    steps = [("scale", scaler), *([("pca", pca)] if pca else []), ("net", MLPClassifier((6,), max_iter=20))]
    made = Pipeline(steps).fit(CANCER.data, CANCER.target)
    explainer = Explainer(made, CANCER.feature_names, ["malignant", "benign"])
    scores = explainer.predict(CANCER.data[:40])
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1])
    np.testing.assert_allclose(expit(scores[:, 1]), made.predict_proba(CANCER.data[:40])[:, 1], rtol=1e-6)
    found = explainer.explain_batch(CANCER.data[:5])
    assert found.relevance.shape == (5, 30) and np.isfinite(found.relevance).all()


def test_a_regressor() -> None:
    x, y = REGRESSION
    for made in (
        make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(7,), max_iter=50, random_state=0)),
        LinearRegression(),
        Ridge(),
    ):
        made.fit(x, y)
        explainer = Explainer(made)
        np.testing.assert_allclose(explainer.predict(x), made.predict(x), rtol=1e-9)
        assert explainer.task == "regression"
        assert explainer.explain(x[0], 1).output == pytest.approx(made.predict(x[:1])[0, 1])
    made = LinearRegression().fit(x, y[:, 0])
    assert Explainer(made).explain(x[0]).output == pytest.approx(made.predict(x[:1])[0])


def test_a_linear_model_by_hand() -> None:
    """Relevance of a scaled linear model is coefficient times scaled feature; the intercept is the delta."""
    made = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(CANCER.data, CANCER.target)
    found = Explainer(made, preset="zero").explain(CANCER.data[0], "1")
    scaled = made[0].transform(CANCER.data[:1])[0]
    np.testing.assert_allclose(found.relevance, made[1].coef_[0] * scaled, rtol=1e-9)
    assert found.delta == pytest.approx(made[1].intercept_[0])


def test_names_come_from_the_frame_it_was_fitted_on() -> None:
    pandas = pytest.importorskip("pandas", reason="frames need pandas")
    frame = pandas.DataFrame(IRIS.data, columns=IRIS.feature_names)
    made = make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=10)).fit(frame, IRIS.target_names[IRIS.target])
    explainer = Explainer(made)
    assert explainer.feature_names == tuple(IRIS.feature_names)
    assert explainer.class_names == ("setosa", "versicolor", "virginica")
    with pytest.raises(rp.RelpropError, match="another order"):
        explainer.explain_batch(frame[frame.columns[::-1]])


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            make_pipeline(PolynomialFeatures(), LogisticRegression()),
            r"step 'polynomialfeatures' \(PolynomialFeatures\)",
        ),
        (make_pipeline(Normalizer(), LogisticRegression()), r"step 'normalizer' .*cannot be converted"),
        (make_pipeline(PCA(2), MinMaxScaler(clip=True), LogisticRegression()), "clip=True"),
        (RandomForestClassifier(n_estimators=2), "For trees and kernels there is no relevance propagation"),
    ],
    ids=["polynomial", "rows", "clip", "forest"],
)
def test_what_cannot_be_converted(estimator: Any, message: str) -> None:
    estimator.fit(IRIS.data, IRIS.target)
    with pytest.raises(rp.RelpropError, match=message):
        from_sklearn(estimator)


@pytest.mark.parametrize("estimator", [MLPClassifier(), LogisticRegression(), make_pipeline(StandardScaler(), Ridge())])
def test_what_is_not_fitted(estimator: Any) -> None:
    with pytest.raises(rp.RelpropError, match="is not fitted; call fit first"):
        from_sklearn(estimator)
