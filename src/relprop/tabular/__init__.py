"""Explanations for tables: numpy or pandas in, features by name out.

`Explainer` is what one uses; `from_sklearn` makes a torch module of a scikit-learn estimator. Results are dataclasses
that become dicts, JSON and pandas frames.
"""

from relprop.tabular.convert import Converted as Converted
from relprop.tabular.convert import from_sklearn as from_sklearn
from relprop.tabular.explainer import Explainer as Explainer
from relprop.tabular.result import Comparison as Comparison
from relprop.tabular.result import Result as Result
from relprop.tabular.result import Results as Results
