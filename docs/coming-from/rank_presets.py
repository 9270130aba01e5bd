"""Rank presets on real photographs: our metrics and Quantus', on a network with its ImageNet weights.

    python docs/coming-from/rank_presets.py [--side 128] [--patch 16]

Needs `pip install "relprop[demo,quantus]"`; nothing is downloaded when it runs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

import relprop as rp
from relprop.adapters import quantus
from relprop.metrics import area_between_curves, relative_conservation_error, symmetric_relevance_gain
from relprop.models import load_model, read_photo

PHOTOS = ("chelsea", "coffee", "astronaut")


def main(side: int, patch: int) -> list[tuple[str, list[float]]]:
    loaded = load_model("efficientnet-lite0")
    prepare = replace(loaded.preprocess, resize=max(side, loaded.preprocess.resize * side // 224), crop=side)
    x = torch.cat([prepare(read_photo(name)) for name in PHOTOS])
    target = loaded.model(x).argmax(1).detach()
    low, high = float(prepare.low.min()), float(prepare.high.max())
    presets = {
        "random": None,
        "Zero (gradient x input)": rp.Zero(),
        "UniformEpsilon(1e-2)": rp.UniformEpsilon(1e-2),
        "EpsilonPlus": rp.EpsilonPlus(),
        "EpsilonPlusFlat": rp.EpsilonPlusFlat(),
        "EpsilonGammaBox": rp.EpsilonGammaBox(low, high),
        "EpsilonAlpha2Beta1Flat": rp.EpsilonAlpha2Beta1Flat(),
    }
    sparse = quantus.metric("Sparseness", abs=True)
    rows = []
    for name, preset in presets.items():
        if preset is None:
            relevance = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
            error = float("nan")
        else:
            found = rp.LRP(loaded.model, preset).explain(x, target=target)
            relevance, logits = found.relevance, found.output.gather(1, target[:, None])[:, 0]
            error = float(relative_conservation_error(relevance, logits).mean())
        how = {"patch": patch, "steps": 6, "baseline": "mean"}
        area = area_between_curves(loaded.model, x, relevance, target, **how)
        gain = symmetric_relevance_gain(loaded.model, x, relevance, target, score="logit", **how)
        sparseness = quantus.mean_score(sparse, loaded.model, x, target, relevance, preset)
        rows.append((name, [float(area.mean()), float(gain.mean()), sparseness, error]))
    rows.sort(key=lambda row: -row[1][0])
    print(f"{'':<26}{'area':>10}{'gain':>10}{'sparse':>10}{'conserv.':>10}")
    for name, scores in rows:
        print(f"{name:<26}" + "".join(f"{s:>10.3f}" for s in scores))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="side of the pictures")
    parser.add_argument("--patch", type=int, default=16, help="side of the squares that are taken away")
    main(**vars(parser.parse_args()))
