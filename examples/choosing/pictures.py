"""
Drawing a map
=============

The numbers are the same in every picture here. What a map seems to say depends on how it is
drawn, so each says what its scale is, and what was cut off.
"""

import relprop as rp
from relprop import render
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
photo = read_photo("coffee")
x, view = loaded.preprocess(photo), loaded.preprocess.view(photo)
preset = rp.EpsilonGammaBox(loaded.preprocess.low, loaded.preprocess.high)
cup, consomme = (e.relevance for e in rp.LRP(loaded.model, preset).explain(x, targets=[967, 925]))

# %%
# The scale
# ---------
# It is symmetric, so that equal amounts for and against are equally strong colours. It ends
# where 99.5 % of the pixels lie; all of them (100) leaves most of the map pale, for a few are
# far stronger than the rest.

figures = [render.grid(cup, [f"percentile={p:g}"], percentile=p) for p in (90.0, 99.5, 100.0)]
low, default, whole = figures

# %%
# One scale for several maps
# --------------------------
# Otherwise each has its own, and strengths do not compare.

titles = ["espresso", "consomme"]
own = render.grid([cup, consomme], titles)

# %%
# With one for all, the weaker class is paler.

shared = render.grid([cup, consomme], titles, shared_scale=True)

# %%
# Over the photograph
# -------------------
# Smoothed, with lines at chosen shares of the strongest value.

over = render.grid([cup], ["over=True"], photo=view, over=True, smooth=2, contours=(0.1, 0.5))

# %%
# Colours
# -------
# Red and blue on light ground, or on dark; and the names that zennit gives to its colour maps.

first = render.grid(cup, ["relevance"], colours="relevance")
second = render.grid(cup, ["relevance-dark"], colours="relevance-dark")
third = render.grid(cup, ["coldnhot"], colours="coldnhot")

# %%
# Channels
# --------
# A pixel's three channels are summed. Their magnitude says where anything happened at all, and
# forgets the sign.

summed = render.grid(cup, ['reduce="sum"'], reduce="sum")
strength = render.grid(cup, ['reduce="norm"'], reduce="norm")
