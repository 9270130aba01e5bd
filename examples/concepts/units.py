"""
Units inside the model
======================

Which channels of a network speak for "tiger cat", what each of them looks at, and which of them
feed one another.
"""

import numpy as np
from skimage import data

import relprop as rp
from relprop.concepts import CRP, TopN, attribution_graph, reference_samples
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
see = loaded.preprocess
photo = read_photo("chelsea")
x, view = see(photo), see.view(photo)
tiger = 282

lrp = rp.LRP(loaded.model, rp.EpsilonGammaBox(see.low, see.high))
crp = CRP(lrp)

# %%
# The five channels of a middle layer with most relevance, and a map under the condition of each.
# They share the eyes and part the rest: one looks at the rims and the nose, one at the whiskers'
# roots and the stripes.

found = crp.explain(x, conditions={"blocks.10": TopN(5)}, target=tiger)
figure = found.picture(view, smooth=2)

# %%
# How many it takes: the share of the layer's relevance that its strongest channels hold.

ranked = crp.relevance(x, layer="blocks.10", target=tiger)[0].sort(descending=True).values
for count in (1, 5, 50, len(ranked)):
    print(f"{count:4d} channels hold {ranked[:count].sum() / ranked.sum():7.1%}")

# %%
# From layer to layer
# -------------------
# An attribution graph: the strongest units of the last convolution, of each those below that feed
# it most, and so on. An edge is the relevance of the lower unit under the condition of the upper.

graph = attribution_graph(
    crp, x, layers=["head", "blocks.15", "blocks.10"], width=[3, 2, 2], target=tiger
)
figure_graph = graph.picture(title="tiger cat, score 9.3")

# %%
# What a channel stands for
# -------------------------
# One picture does not tell. Here are the parts of four photographs in which the three strongest
# channels are most relevant to whatever the network sees there, cut to what they look at. Channel
# 96 is about round things that shine: eyes, and a spoon.

names = ["chelsea", "coffee", "rocket", "astronaut"]
photos = [data.astronaut() if name == "astronaut" else getattr(data, name)() for name in names]
tiles = []
for picture in photos:
    side = min(picture.shape[:2])
    for start in np.linspace(0, picture.shape[1] - side, 3).astype(int):
        tiles.append(np.ascontiguousarray(picture[:side, start : start + side]))
inputs = [see(tile)[0] for tile in tiles]
references = reference_samples(
    lrp, (i[None] for i in inputs), "blocks.10", count=5, target="predicted"
)
strongest = [condition["blocks.10"].index[0] for condition in found.conditions[:3]]
figure_references = references.picture(
    lrp,
    inputs.__getitem__,
    strongest,
    view=lambda i: see.view(tiles[i]),
    count=5,
    target="predicted",
)
