"""
Images
======

What did a network see in a photograph? EfficientNet-Lite0 with its ImageNet weights, and a cat;
both lie inside Python packages.
"""

import torch

import relprop as rp
from relprop import render
from relprop.models import class_names, load_model, read_photo

photo = read_photo("chelsea")  # or the path of a photograph of your own
loaded = load_model("efficientnet-lite0")
x = loaded.preprocess(photo)  # [1, 3, 224, 224], normalised
view = loaded.preprocess.view(photo)  # [224, 224, 3], what the network sees in its colours

names = class_names()
strongest = loaded.model(x).softmax(-1)[0].topk(3)
for share, index in zip(strongest.values.tolist(), strongest.indices.tolist()):
    print(f"{share:6.1%}  {names[index]}")

# %%
# A map
# -----
# Relevance has the shape of the input. A picture sums it over the colour channels: red speaks
# for the class, blue against it. The scale is the same for both signs and stands beside the map;
# a few pixels are stronger than the rest, and what was clipped for their sake is printed below.

e = rp.LRP(loaded.model, rp.EpsilonPlusFlat()).explain(x, target=282)
figure = render.grid(e.relevance, ["tiger cat, EpsilonPlusFlat"], photo=view)

# %%
# The preset decides what is shown
# --------------------------------
# z+ keeps positive contributions alone, so its map says where the evidence is. Gamma keeps some
# of what speaks against. The z-box rule at the input wants the bounds of a pixel, black and
# white, in normalised units: ``loaded.preprocess`` knows them. :doc:`/which-preset` compares
# more.

presets = [
    rp.EpsilonPlusFlat(),
    rp.EpsilonGammaBox(loaded.preprocess.low, loaded.preprocess.high),
    rp.EpsilonAlpha2Beta1Flat(),
]
maps = [rp.LRP(loaded.model, preset).explain(x, target=282).relevance for preset in presets]
figure = render.grid(maps, [type(preset).__name__ for preset in presets])

# %%
# Over the photograph
# -------------------
# Smoothed by a Gaussian of two pixels, with lines where a tenth and a half of the strongest
# value is reached.

figure = render.grid(
    maps[:2],
    ["EpsilonPlusFlat", "EpsilonGammaBox"],
    photo=view,
    over=True,
    smooth=2,
    contours=(0.1, 0.5),
)

# %%
# Inside the network
# ------------------
# ``layers`` asks for relevance at the outputs of modules too. Deeper maps are coarser, and each
# channel has one of its own; here they are summed.

paths = ["stem", "blocks.2", "blocks.4", "blocks.10"]
e = rp.LRP(loaded.model, rp.EpsilonPlus()).explain(x, target=282, layers=paths)
layers = [
    torch.nn.functional.interpolate(e.layers[p].sum(1, keepdim=True), 224)[0] for p in paths
]
figure = render.grid(layers, [f"{p}: {e.layers[p].shape[1]} channels" for p in paths], columns=2)
