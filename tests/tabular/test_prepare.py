"""Pipelines that encode their columns: the same scores, and relevance that finds back to the column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import relprop as rp
from relprop.tabular import Explainer, Result, from_sklearn

pytest.importorskip("pandas", reason="columns of words come in frames")
pytest.importorskip("sklearn", reason="converts estimators of scikit-learn")

import pandas
from scipy.special import expit
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # makes the next line possible
from sklearn.feature_selection import SelectKBest
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Bins whose width:UserWarning"),
]

RNG = np.random.default_rng(0)
FRAME = pandas.DataFrame(
    {
        "age": RNG.uniform(20, 60, 60).round(),
        "city": RNG.choice(["rome", "oslo", "bern", "lima"], 60, p=[0.4, 0.4, 0.15, 0.05]),
        "income": RNG.lognormal(size=60),
        "size": RNG.choice(["small", "large"], 60),
        "visits": RNG.integers(0, 9, 60),
    }
)
NUMBERS, WORDS = ["age", "income", "visits"], ["city", "size"]
LABEL = (FRAME["age"] + 20 * (FRAME["city"] == "rome") + 3 * RNG.normal(size=60) > 45).to_numpy().astype(int)
GAPS = FRAME.astype({"visits": float})
GAPS.loc[::7, "age"] = np.nan
GAPS.loc[::11, "city"] = None


def beside(numbers: Any, words: Any, **options: Any) -> ColumnTransformer:
    return ColumnTransformer([("numbers", numbers, NUMBERS), ("words", words, WORDS)], **options)


TABLES = {
    "one-hot": beside(StandardScaler(), OneHotEncoder()),
    "dropped": beside(MinMaxScaler(clip=True), OneHotEncoder(drop="first")),
    "dropped if binary": beside(StandardScaler(), OneHotEncoder(drop="if_binary", sparse_output=False)),
    "rare ones together": beside(StandardScaler(), OneHotEncoder(min_frequency=12, drop="first")),
    "unknown allowed": beside(RobustScaler(), OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3)),
    "ordinal": beside(QuantileTransformer(n_quantiles=10), OrdinalEncoder()),
    "target": beside(PowerTransformer(), TargetEncoder(cv=2)),
    "splines": beside(SplineTransformer(n_knots=4), OneHotEncoder()),
    "bins": beside(KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"), OneHotEncoder()),
    "bins in order": beside(KBinsDiscretizer(3, encode="ordinal", quantile_method="linear"), OneHotEncoder()),
    "pca in a branch": beside(make_pipeline(StandardScaler(), PCA(2, whiten=True)), OneHotEncoder()),
    "svd on all": make_pipeline(beside(StandardScaler(), OneHotEncoder()), TruncatedSVD(4), StandardScaler()),
    "selected after pca": make_pipeline(beside(StandardScaler(), OneHotEncoder()), PCA(5), SelectKBest(k=3)),
    "selected": make_pipeline(beside(StandardScaler(), OneHotEncoder()), SelectKBest(k=4), MaxAbsScaler()),
    "weighed": beside(
        Pipeline([("scale", StandardScaler()), ("pca", PCA(2)), ("again", MinMaxScaler((1, 2)))]),
        OneHotEncoder(),
        transformer_weights={"numbers": 0.3, "words": 2.0},
    ),
    "the rest": ColumnTransformer(
        [("drop", "drop", ["size"]), ("words", OneHotEncoder(), make_column_selector("city"))], remainder="passthrough"
    ),
    "by place": ColumnTransformer(
        [
            ("last", FunctionTransformer(np.log1p), [-1]),
            ("words", OneHotEncoder(), [1, 3]),
            ("slice", StandardScaler(), slice(0, 1)),
            ("mask", Binarizer(threshold=1.0), [False, False, True, False, False]),
        ]
    ),
    "by labels": ColumnTransformer(
        [
            ("words", OneHotEncoder(), ["city", "size"]),
            ("from", StandardScaler(), slice("visits", None)),
            ("to", MinMaxScaler(), slice("income", "income")),
        ]
    ),
    "one column twice": ColumnTransformer(
        [("words", OneHotEncoder(), WORDS), ("a", StandardScaler(), ["age"]), ("b", SplineTransformer(), ["age"])]
    ),
    "in one another": make_column_transformer(
        (OneHotEncoder(), WORDS),
        (
            FeatureUnion([("as", StandardScaler()), ("pca", PCA(1)), ("not", "drop")], transformer_weights={"as": 2.0}),
            NUMBERS,
        ),
    ),
    "as frames": make_pipeline(beside(StandardScaler(), OneHotEncoder(sparse_output=False)), MinMaxScaler()).set_output(
        transform="pandas"
    ),
    "a function": beside(
        FunctionTransformer(lambda x: x**2, feature_names_out="one-to-one"),
        OneHotEncoder(),
        verbose_feature_names_out=True,
    ),
}


def fitted(table: Any, frame: Any = FRAME) -> Pipeline:
    network = MLPClassifier((6,), max_iter=40, random_state=0)
    return make_pipeline(table, StandardScaler(with_mean=False), network).fit(frame, LABEL)


@pytest.mark.parametrize("name", TABLES)
def test_scores_are_the_pipelines(name: str) -> None:
    made = fitted(TABLES[name])
    explainer = Explainer(made, preset="epsilon")
    np.testing.assert_allclose(expit(explainer.predict(FRAME)[:, 1]), made.predict_proba(FRAME)[:, 1], rtol=1e-9)
    found = explainer.explain_batch(FRAME)
    assert found.relevance.shape == FRAME.shape and list(found[3].to_frame().index) == list(FRAME.columns)
    one = explainer.explain(FRAME.iloc[3])
    np.testing.assert_allclose(one.relevance, found[3].relevance, rtol=1e-9)
    np.testing.assert_allclose(explainer.explain(dict(FRAME.iloc[3])).relevance, one.relevance, rtol=1e-12)
    np.testing.assert_allclose(explainer.explain(FRAME.iloc[3].to_numpy()).relevance, one.relevance, rtol=1e-12)


@pytest.mark.parametrize("name", TABLES)
def test_every_number_stems_from_its_column(name: str) -> None:
    """Other values in one column change no number of another; together with the next test, each has the right one."""
    made = from_sklearn(fitted(TABLES[name]))
    before = made.prepare(FRAME)
    changes = 0
    for place, column in enumerate(FRAME.columns):
        changed = FRAME.assign(**{column: FRAME[column].to_numpy()[::-1]})
        moved = (made.prepare(changed) != before).any(0).numpy()
        assert set(made._prepared.origin[moved]) <= {place}
        changes += int(moved.any())
    assert changes == len(set(made._prepared.origin))


def test_one_hot_columns_are_summed_to_theirs() -> None:
    """Of a linear model the relevance of a word is its category's coefficient; of a number, coefficient times value."""
    made = make_pipeline(beside(StandardScaler(), OneHotEncoder()), LogisticRegression()).fit(FRAME, LABEL)
    found = Explainer(made, preset="zero").explain_batch(FRAME, 1)
    encoder, names = made[0], made[0].get_feature_names_out().tolist()
    coefficients = dict(zip(names, made[1].coef_[0], strict=True))
    scaled = encoder.named_transformers_["numbers"].transform(FRAME[NUMBERS])
    for i, row in FRAME.iterrows():
        expected = [
            coefficients[f"words__{column}_{row[column]}"]
            if column in WORDS
            else coefficients[f"numbers__{column}"] * scaled[i, NUMBERS.index(column)]
            for column in FRAME.columns
        ]
        np.testing.assert_allclose(found[i].relevance, expected, rtol=1e-9, atol=1e-12)
        assert found[i].delta == pytest.approx(made[1].intercept_[0])


@pytest.mark.parametrize(
    "imputer",
    [
        SimpleImputer(),
        SimpleImputer(add_indicator=True),
        KNNImputer(),
        IterativeImputer(max_iter=2, add_indicator=True),
    ],
    ids=["mean", "with indicator", "neighbours", "iterative"],
)
def test_gaps_that_the_pipeline_fills(imputer: Any) -> None:
    words = make_pipeline(SimpleImputer(strategy="most_frequent", add_indicator=False), OneHotEncoder())
    made = fitted(beside(imputer, words), GAPS.replace({None: np.nan}))
    explainer = Explainer(made)
    rows = GAPS.replace({None: np.nan})
    np.testing.assert_allclose(expit(explainer.predict(rows)[:, 1]), made.predict_proba(rows)[:, 1], rtol=1e-9)
    one = explainer.explain(rows.iloc[0])
    assert "nothing" in str(one) and one.to_dict()["values"]["age"] is None
    again = Result.from_json(one.to_json())
    np.testing.assert_allclose(again.relevance, one.relevance)
    assert again.values[1] == one.values[1] or np.isnan(again.values[1])


def test_a_pipeline_fitted_on_arrays() -> None:
    data = FRAME.to_numpy(dtype=object)
    table = ColumnTransformer([("numbers", StandardScaler(), [0, 2, 4]), ("words", OneHotEncoder(), [1, 3])])
    made = make_pipeline(table, LogisticRegression()).fit(data, LABEL)
    explainer = Explainer(made, list(FRAME.columns), ["no", "yes"])
    np.testing.assert_allclose(expit(explainer.predict(data)[:, 1]), made.predict_proba(data)[:, 1])
    found = explainer.explain([40.0, "rome", 1.0, "small", 3])
    assert found.to_dict()["values"] == {"age": 40.0, "city": "rome", "income": 1.0, "size": "small", "visits": 3.0}
    np.testing.assert_allclose(explainer.explain(data[:1]).relevance, explainer.explain_batch(data)[0].relevance)


def test_a_search_and_a_scaled_target() -> None:
    search = GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [0.1, 10.0]}, cv=2)
    target = 1000 * LABEL + FRAME["age"].to_numpy()
    rows = FRAME[NUMBERS]
    made = TransformedTargetRegressor(search, transformer=StandardScaler()).fit(rows, target)
    np.testing.assert_allclose(Explainer(made).predict(rows)[:, 0], made.predict(rows), rtol=1e-9)
    plain = TransformedTargetRegressor(Ridge()).fit(rows, target)
    assert Explainer(plain).explain(rows.iloc[0]).output == pytest.approx(plain.predict(rows)[0])


def test_centring_by_pca_takes_no_relevance_away() -> None:
    """Components of what lies around the mean: the intercept alone is left over."""
    rows = FRAME[NUMBERS] + 1000.0
    made = make_pipeline(PCA(3), LogisticRegression(max_iter=2000)).fit(rows, LABEL)
    assert Explainer(made, preset="zero").explain(rows.iloc[0], 1).delta == pytest.approx(made[1].intercept_[0])


def unfitted_search() -> Any:
    return GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (make_pipeline(Normalizer(), LogisticRegression()), r"step 'normalizer' \(Normalizer\) cannot be converted"),
        (make_pipeline(PCA(2), PowerTransformer(), LogisticRegression()), r"'powertransformer'.*mixes columns, linear"),
        (make_pipeline(FunctionTransformer(lambda x: x + 1), LogisticRegression()), "'functiontransformer'"),
        (
            make_pipeline(make_column_transformer((Normalizer(), ["age"]), remainder="passthrough"), Ridge()),
            "'columntransformer.normalizer'",
        ),
        (
            TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp),
            "a FunctionTransformer is not one",
        ),
    ],
    ids=["rows", "after pca", "function", "in a branch", "target"],
)
def test_what_cannot_be_converted(estimator: Any, message: str) -> None:
    estimator.fit(FRAME[NUMBERS], LABEL + 1)
    with pytest.raises(rp.RelpropError, match=message):
        from_sklearn(estimator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(city="mars"), "cannot take these rows: Found unknown categories .*mars"),
        (
            lambda f: f.assign(age="old"),
            "to float: 'old'.*text stands in column 'age', 'city'",
        ),
        (lambda f: f.assign(age=np.nan), "60 entries are NaN.*first in row 0, column 'age'.*an imputer"),
        (lambda f: f.drop(columns="city"), "columns are missing: 'city'"),
        (lambda f: f[f.columns[::-1]], "another order"),
        (lambda f: f.drop(columns="city").to_dict("records"), "columns are missing: 'city'"),
        (lambda f: f.assign(x=1).to_dict("records"), "the model does not know: 'x'"),
    ],
)
def test_rows_that_do_not_fit(change: Any, message: str) -> None:
    explainer = Explainer(fitted(TABLES["one-hot"]))
    with pytest.raises(rp.RelpropError, match=message):
        explainer.explain_batch(change(FRAME))


def test_what_is_no_estimator_or_not_fitted() -> None:
    with pytest.raises(rp.RelpropError, match="LogisticRegression is a class: give a fitted estimator"):
        Explainer(LogisticRegression)
    with pytest.raises(rp.RelpropError, match="this GridSearchCV has no best estimator; call fit"):
        Explainer(unfitted_search())
