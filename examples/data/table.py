"""
Tables
======

Which columns made the model say that? A scikit-learn Pipeline, explained as it is.
"""

from sklearn.datasets import load_breast_cancer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import relprop as rp

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
net = MLPClassifier((16,), solver="lbfgs", alpha=30.0, max_iter=2000, random_state=0)
model = make_pipeline(StandardScaler(), net).fit(X[:400], y[:400])
print(f"right on held-back rows: {model.score(X[400:], y[400:]):.1%}")

# %%
# One row
# -------
# The explainer takes the fitted Pipeline, or a torch module. The predicted class is explained;
# relevance is that of the scaled columns, so what counts is how far a value lies from its mean.

explainer = rp.tabular.Explainer(model, class_names=["malignant", "benign"], preset="epsilon")
one = explainer.explain(X.iloc[500])
print(one)

# %%
# A waterfall adds the columns up to the model's output.

figure = one.picture(kind="waterfall", count=10)

# %%
# Many rows
# ---------
# One batched pass. Each point is a row, coloured by the value of the column: high values of
# ``worst concave points`` speak for "malignant".

every = explainer.explain_batch(X[400:], target="malignant")
swarm = every.picture(kind="beeswarm", count=10)
frame = every.to_frame()
print(frame.iloc[:3, :4])

# %%
# Several rules
# -------------
# Where rules agree on the strongest columns, the answer does not hang on the choice.

compared = explainer.compare_rules(X.iloc[500], rules=["epsilon", "gamma", "z_plus"])
for rule, result in compared.items():
    print(f"{rule:8}", ", ".join(f"{name} {r:+.2f}" for name, r in result.top(3)))
