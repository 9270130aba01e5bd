"""The rule sets that are compared, by name."""

from __future__ import annotations

EPSILON = "UniformEpsilon"
PLUS = "EpsilonPlus"
BOX = "EpsilonGammaBox"
ALPHA_BETA = "EpsilonAlpha2Beta1"
ATTENTION = "AttnLRP"
ATTENTION_GAMMA = "AttnLRP, gamma on linear"
VALUES_ONLY = "CPLRP"

CONVOLUTIONAL = (EPSILON, PLUS, BOX, ALPHA_BETA)

# What every library is given, so that all compute the same thing.
STABILISER = 1e-6
GAMMA = 0.25
LOW, HIGH = -2.1, 2.6
