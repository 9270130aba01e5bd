"""
This class rather than that
===========================

A cat and a cup in one picture. Under rules that keep one sign the maps of both classes light up on both: much of what
the network sees speaks for everything. Contrasts start with relevance for and against, so that what the classes share
cancels; each does it in its own way.
"""

import numpy as np
import torch

import relprop as rp
from relprop import render
from relprop.concepts import Difference, SoftmaxContrast, SoftmaxGradient, clrp
from relprop.models import load_model, read_photo

loaded = load_model("efficientnet-lite0")
see = loaded.preprocess
halves = see.view(read_photo("chelsea"))[:, 20:132], see.view(read_photo("coffee"))[:, 60:172]
view = np.concatenate(halves, 1)  # 224 x 224
x = (torch.tensor(view).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5  # see below: the network's own
x = see(np.ascontiguousarray(view)) if see.resize == see.crop else x
