"""
This class rather than that
===========================

A cat and a cup in one picture. The map of each class spills over to the other: much of what a
network sees speaks for many classes at once. A contrast starts with relevance for and against,
so that what the classes share cancels.
"""

from dataclasses import replace

import numpy as np

import relprop as rp
from relprop import render
from relprop.concepts import SGLRP, Difference, SoftmaxContrast, clrp
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
see = loaded.preprocess
halves = see.view(read_photo("chelsea"))[:, 20:132], see.view(read_photo("coffee"))[:, 60:172]
view = np.concatenate(halves, 1)
x = replace(see, resize=224)(view)
cat, cup = 285, 967  # Egyptian cat, espresso

lrp = rp.LRP(loaded.model, rp.EpsilonPlus(bias="zero"))
each = lrp.explain(x, targets=[cat, cup])
probability = each[0].output.softmax(1)[0]
print(f"Egyptian cat {probability[cat]:.1%}, espresso {probability[cup]:.1%}")
figure = render.grid([e.relevance for e in each], ["cat", "cup"], photo=view, smooth=1)

# %%
# Contrasts
# ---------
# Three seeds for the same question, why a cat. The difference asks about one other class. The
# softmax contrast asks about all others, each as far as it is in the running. SGLRP takes the
# gradient of the probability for relevance.

seeds = {
    "cat rather than cup": Difference(cat, cup),
    "cat rather than all others": SoftmaxContrast(cat),
    "SGLRP": SGLRP(cat),
}
maps = [lrp.explain(x, target=seed).relevance for seed in seeds.values()]
contrasts = render.grid(maps, list(seeds), photo=view, smooth=1)

# %%
# CLRP
# ----
# Two explanations, each scaled to the same sum, the one less the other: that of the class and
# that of its opposite. What is left is where the class has more than its opposite.

duals = {
    "uniform": "all others",
    "logits": "all others, by their size",
    "negated": "weights negated",
}
maps = [clrp(lrp, x, target=c, dual=d).relevance for c in (cat, cup) for d in duals]
titles = [f"{name}: {said}" for name in ("cat", "cup") for said in duals.values()]
opposites = render.grid(maps, titles, smooth=1, columns=3)
