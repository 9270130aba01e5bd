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
# excess. ``distribute`` gives it to all inputs alike, so everything arrives, part of it without
# regard to what the input was: the map grows dull.

figure = render.grid(
    [e.relevance for e in explained.values()], [f'bias="{way}"' for way in ways], photo=view
)

# %%
# Where the score went
# --------------------

entries = ("input", "bias", "excess")
audits = Figure(figsize=(6.5, 2.2), layout="constrained")
axes = audits.subplots()
for i, e in enumerate(explained.values()):
    a = e.audit
    parts = [sum(a.inputs.values()) / a.seed, a.bias / a.seed, a.excess / a.seed]
    axes.barh(
        [j + (1 - i) * 0.27 for j in range(3)],
        parts,
        0.25,
        label=ways[i],
        color=("#c2544b", "#8a8a8a", "#4b79cf")[i],
    )
axes.set_yticks(range(3), entries)
axes.invert_yaxis()
axes.set_xlabel("share of the explained score")
axes.legend(title="bias")
axes.spines[["top", "right"]].set_visible(False)
