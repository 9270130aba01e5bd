"""
Units inside the network
========================

A map says where. Which parts of the network were at work there? Concept relevance propagation
lets only the relevance of chosen units pass a layer: here channels of EfficientNet-Lite0.
"""

import relprop as rp
from relprop.concepts import CRP, TopN
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
photo = read_photo("chelsea")
x, view = loaded.preprocess(photo), loaded.preprocess.view(photo)
lrp = rp.LRP(loaded.model, rp.EpsilonPlusFlat())

# %%
# The strongest channels
# ----------------------
# ``TopN`` finds those with the most relevance for the target, and makes a condition of each. One
# is said to be about the eyes, or the nose, only by looking: each map shows where its channel
# had the relevance that it passed on.

layer = "blocks.10.expand"
strongest = CRP(lrp).explain(x, target=282, conditions={layer: TopN(5)})
figure = strongest.picture(view, columns=3, smooth=1)

# %%
# All of them
# -----------
# Nothing goes around this layer but the block's own residual way, so the maps of all channels
# together are the part of the relevance that took the block.

e = lrp.explain(x, target=282, layers=[layer])
by_channel = e.layers[layer][0].sum((1, 2))
order = by_channel.argsort(descending=True)
total = by_channel.sum()
for count in (1, 5, 50, len(order)):
    print(
        f"{count:4d} channels hold {by_channel[order[:count]].sum() / total:6.1%} of the layer's"
    )
