"""
Why these two are alike
=======================

BiLRP explains a similarity by pairs: this part of the one, together with that part of the other.
It wants no more than the model that makes the vectors.
"""

import numpy as np
import torch
from torch import nn

import relprop as rp
from relprop.concepts import bilrp, bilrp_texts
from relprop.models import load_model, read_photo
from relprop.models.photos import Preprocess
from relprop.text.models import load

# %%
# Two sentences
# -------------
# MiniLM puts sentences into 384 numbers, and the cosine of two of them says how alike the
# sentences are. A derivative for each token stands for 384 explanations.

minilm = load("minilm")
pair = bilrp_texts(
    minilm.model,
    minilm.tokenizer,
    "A man is eating fresh bread in the kitchen.",
    "Someone has a baguette for breakfast.",
)
sentences = pair.picture(count=25)
for link in pair.strongest(4):
    one, other = pair.labels[0][link.first[0]], pair.labels[1][link.second[0]]
    print(f"{one:>8} {other:<10} {link.relevance:+.3f}")
print(pair)

# %%
# Two photographs
# ---------------
# The same cat, and again as in a mirror and closer. What is compared are 40 features from a
# third of the way up in EfficientNet-Lite0, averaged over the picture: nothing in them says
# where anything was. The links show what was matched with what.

network = load_model("efficientnet-lite0").model
features = nn.Sequential(
    network.stem, *list(network.blocks)[:4], nn.AdaptiveAvgPool2d(1), nn.Flatten()
)
prepare = Preprocess(resize=128, crop=128)
cat = read_photo("chelsea")
mirrored = np.ascontiguousarray(cat[:, ::-1][40:260, :280])
lrp = rp.LRP(features, rp.EpsilonPlus(bias="zero"))
cats = bilrp(lrp, prepare(cat), prepare(mirrored), similarity="cosine", batch_size=10)
photographs = cats.picture(prepare.view(cat), prepare.view(mirrored), count=40)
print(cats)

# %%
# Larger embeddings
# -----------------
# On k random orthogonal directions an estimate of the matrix takes k passes for each input: it
# is unbiased, and its standard error comes with it.

guess = bilrp(
    lrp, prepare(cat), prepare(mirrored), similarity="cosine", project=20, batch_size=10,
    generator=torch.Generator().manual_seed(0),
)  # fmt: skip
inside = ((guess.matrix - cats.matrix).abs() < 2 * guess.error).float().mean()
print(f"{inside:.0%} of the pairs lie within two standard errors")
