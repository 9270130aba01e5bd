"""
What the biases keep
====================

In a deep network most of a score is, by the rules' own account, made of biases. What reaches the
input is then small beside what was explained, whatever the map looks like.
"""

from matplotlib.figure import Figure

import relprop as rp
from relprop import render
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
photo = read_photo("coffee")
x, view = loaded.preprocess(photo), loaded.preprocess.view(photo)
ways = ("absorb", "zero", "distribute")
explained = {
    way: rp.LRP(loaded.model, rp.EpsilonPlusFlat(bias=way)).explain(x, target=967) for way in ways
}
print(explained["absorb"].audit)

# %%
# Three ways to treat them
# ------------------------
# ``absorb`` is the definition of each rule: the bias is one more contribution, and keeps its
# share. ``zero`` leaves it out of the denominator, so that its share is passed on; where an
# output has no contribution of the right sign there is nobody to pass it to, which is the
# excess. ``distribute`` gives it to all inputs of an output alike, so that everything arrives.

titles = [f'bias="{way}"' for way in ways]
figure = render.grid([e.relevance for e in explained.values()], titles, photo=view)

# %%
# The third map is a handful of blots of both signs. What was distributed also lies where values
# are near zero, and there the signed split of a residual sum hands out large shares that cancel.
# A rule for sums whose shares stay bounded shows what distributing does by itself: all the score
# arrives, most of it without regard to what was in the picture.

rows = [(rp.Kind("sum"), rp.ResidualGamma()), *rp.EpsilonPlusFlat(bias="distribute").rows]
bounded = rp.LRP(loaded.model, rows).explain(x, target=967)
bounded_figure = render.grid(bounded.relevance, ['bias="distribute", bounded sums'], photo=view)

# %%
# Where the score went
# --------------------

audits = Figure(figsize=(6.5, 2.2), layout="constrained")
axes = audits.subplots()
for i, (way, colour) in enumerate(zip(ways, ("#c2544b", "#8a8a8a", "#4b79cf"))):
    a = explained[way].audit
    parts = [sum(a.inputs.values()) / a.seed, a.bias / a.seed, a.excess / a.seed]
    axes.barh([j + (i - 1) * 0.27 for j in range(3)], parts, 0.25, label=way, color=colour)
axes.set_yticks(range(3), ["input", "bias", "excess"])
axes.invert_yaxis()
axes.set_xlabel("share of the explained score")
axes.legend(title="bias", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
axes.spines[["top", "right"]].set_visible(False)
