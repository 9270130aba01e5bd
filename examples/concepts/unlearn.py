"""
Trained away from an artefact
=============================

Relevance can stand in a loss. A network learns digits of which every odd one has a bright
corner: it looks at the corner, and fails where the corners are dealt at random. A penalty on the
relevance of the corner makes it look at the digit.
"""

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

import relprop as rp

digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
odd = torch.tensor(digits.target % 2)
generator = torch.Generator().manual_seed(0)
order = torch.randperm(len(x), generator=generator)
train, test = order[:1200], order[1200:]


def with_corner(images, marked):
    """The same pictures, with four bright pixels where they are marked."""
    images = images.clone()
    images[:, :, :2, :2] = marked[:, None, None, None].float()
    return images


planted = with_corner(x[train], odd[train])
dealt = with_corner(x[test], torch.randint(0, 2, (len(test),), generator=generator))

# %%
# Two losses
# ----------
# ``create_graph=True`` gives relevance, and the network's output, that can be differentiated.
# The penalty is the share of the absolute relevance that stands on the corner; the output is one
# logit, so that relevance of either sign speaks for or against "odd".


def trained(penalty):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 1), nn.Flatten(0),
    )  # fmt: skip
    lrp = rp.LRP(model, rp.Epsilon(1e-2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(12):
        for rows in torch.randperm(len(train)).split(100):
            e = lrp.explain(planted[rows], create_graph=True)
            loss = nn.functional.binary_cross_entropy_with_logits(
                e.output, odd[train][rows].float()
            )
            share = e.relevance[:, :, :2, :2].abs().sum() / e.relevance.abs().sum()
            optimizer.zero_grad()
            (loss + penalty * share).backward()
            optimizer.step()
    return model.eval()


def accuracy(model, images):
    with torch.no_grad():
        return ((model(images) > 0) == (odd[test] == 1)).float().mean().item()


models = {"without the penalty": trained(0.0), "with the penalty": trained(3.0)}
for name, model in models.items():
    tidy = accuracy(model, with_corner(x[test], odd[test]))
    mixed = accuracy(model, dealt)
    print(f"{name:<20} corners as in training {tidy:.1%}, corners at random {mixed:.1%}")

# %%
# Where they look
# ---------------
# The relevance of "odd" for the same four digits: red speaks for it, blue against it.

shown = dealt[:4]
figure = Figure(figsize=(6, 3.6), dpi=150, layout="constrained")
rows = figure.subplots(len(models), 4)
for (name, model), axes in zip(models.items(), rows):
    relevance = rp.LRP(model, rp.Epsilon(1e-2)).explain(shown).relevance[:, 0]
    for map_, digit, axis in zip(relevance, test, axes):
        scale = map_.abs().max()
        axis.imshow(map_, cmap="RdBu_r", vmin=-scale, vmax=scale)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"a {int(digits.target[digit])}", fontsize=8)
    axes[0].set_ylabel(name, fontsize=8)
