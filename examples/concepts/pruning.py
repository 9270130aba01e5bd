"""
Which units can go
==================

The relevance that passes a filter, summed over a few samples, says how much it contributes to
what the network is asked for. Filters of little relevance go first. Beside it: by the size of
the weights, and at random.
"""

import copy

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

import relprop as rp
from relprop.concepts import least, prune_units, unit_relevance

digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
y = torch.tensor(digits.target)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, test = order[:1200], order[1200:]


def trained(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(32, 48, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(8):
        for rows in train[torch.randperm(len(train))].split(64):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def accuracy(model):
    with torch.no_grad():
        return (model(x[test]).argmax(1) == y[test]).float().mean().item()


# %%
# Scores
# ------
# Relevance is read where a filter's output has passed its ReLU, on ten training samples of each
# class. The masks go to the convolutions, and nothing is trained again.

convolutions, readers = ("0", "2", "5"), ("1", "3", "6")


def by_relevance(model):
    few = torch.cat([train[y[train] == c][:10] for c in range(10)])
    found = unit_relevance(rp.LRP(model, rp.EpsilonPlus()), [(x[few], y[few])], readers)
    return {conv: found[reader] for conv, reader in zip(convolutions, readers)}


def by_weight(model):
    return {
        c: model.get_submodule(c).weight.detach().flatten(1).norm(dim=1) for c in convolutions
    }


def at_random(model):
    return {c: torch.rand(len(model.get_submodule(c).weight)) for c in convolutions}


ways = {"relevance": by_relevance, "weight norm": by_weight, "random": at_random}
shares = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
curves = {name: torch.zeros(3, len(shares)) for name in ways}
for seed in range(3):
    model = trained(seed)
    for name, way in ways.items():
        scores = way(model)
        for i, share in enumerate(shares):
            smaller = prune_units(copy.deepcopy(model), least(scores, share))
            curves[name][seed, i] = accuracy(smaller)

# %%
# Accuracy
# --------
# The mean of three networks; the bars reach from the weakest of them to the best.

print("pruned      " + "".join(f"{s:>7.0%}" for s in shares))
for name, values in curves.items():
    print(f"{name:<12}" + "".join(f"{v:>7.1%}" for v in values.mean(0)))

figure = Figure(figsize=(5.5, 3.4), dpi=150, layout="constrained")
axes = figure.add_subplot()
for name, values in curves.items():
    mean = values.mean(0)
    error = torch.stack([mean - values.min(0).values, values.max(0).values - mean])
    axes.errorbar(shares, mean, error, label=name, capsize=2, marker="o", markersize=3)
axes.set_xlabel("share of filters that are gone")
axes.set_ylabel("accuracy on 597 digits")
axes.legend(frameon=False)
