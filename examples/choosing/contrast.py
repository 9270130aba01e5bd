"""
For, against, instead
=====================

Relevance is relative to what is explained. The network takes this cat for a tiger cat, and
nearly as much for an Egyptian cat. What speaks for the one is mostly what speaks for the other;
what decides between them is another question.
"""

import relprop as rp
from relprop import render
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
photo = read_photo("chelsea")
x, view = loaded.preprocess(photo), loaded.preprocess.view(photo)
tiger, egyptian, espresso = 282, 285, 967

# %%
# One class each
# --------------
# One forward, and a backward for each target. The first two maps are alike: both classes are
# cats. A class that is not in the picture has a map as well, of a small score, or a negative
# one.

lrp = rp.LRP(loaded.model, rp.EpsilonGammaBox(loaded.preprocess.low, loaded.preprocess.high))
each = lrp.explain(x, targets=[tiger, egyptian, espresso])
titles = [
    f"{name}: score {e.audit.seed:+.1f}"
    for name, e in zip(("tiger cat", "Egyptian cat", "espresso"), each)
]
figure = render.grid([e.relevance for e in each], titles, photo=view)

# %%
# The difference
# --------------
# A target may be any function of the output. The difference of two scores has relevance of its
# own: red is what makes it a tiger cat rather than an Egyptian one, blue the reverse.

contrast = lrp.explain(x, target=lambda y: y[:, tiger] - y[:, egyptian])
print(f"explained: {contrast.audit.seed:+.2f}")
contrasted = render.grid(
    contrast.relevance, ["tiger cat rather than Egyptian cat"], photo=view, smooth=1
)

# %%
# The sign follows the rule, too
# ------------------------------
# The same class under a rule that makes no negative relevance from positive, under one that
# keeps it, and under one that doubles positive contributions and subtracts negative ones. The
# amount of blue in two maps is no comparison between them.

maps = [
    rp.LRP(loaded.model, rp.EpsilonPlus()).explain(x, target=tiger).relevance,
    each[0].relevance,
    rp.LRP(loaded.model, rp.EpsilonAlpha2Beta1()).explain(x, target=tiger).relevance,
]
names = ["EpsilonPlus", "EpsilonGammaBox", "EpsilonAlpha2Beta1"]
below = [abs(r[r < 0].sum() / r.abs().sum()) for r in maps]
figure_rules = render.grid(maps, [f"{n}: {b:.0%} against" for n, b in zip(names, below)])
