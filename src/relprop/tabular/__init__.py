"""Explanations for tables: numpy or pandas in, features by name out.

`Explainer` is what one uses; `from_sklearn` makes a torch module of a scikit-learn estimator. Results are dataclasses
that become dicts, JSON and pandas frames.
"""

from relprop.tabular.convert import Converted, from_sklearn
from relprop.tabular.explainer import Explainer
from relprop.tabular.result import Comparison, Result, Results

__all__ = [
    "Comparison",
    "Converted",
    "Explainer",
    "Result",
    "Results",
    "from_sklearn",
]
