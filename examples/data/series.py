"""
Series
======

When did it happen, and in which channel? Two small networks are trained on made-up signals, of
which it is known what matters.
"""

import torch
from torch import nn

import relprop as rp
from relprop import render

# %%
# The data
# --------
# Three channels of noise with slow waves. Class 1 has a short burst in the second channel, at a
# random time; a burst in any other channel means nothing.

STEPS = 128


def signals(count):
    t = torch.arange(STEPS) / STEPS
    phase, speed = torch.rand(count, 3, 1) * 6.3, 1 + 3 * torch.rand(count, 3, 1)
    x = 0.6 * torch.sin(6.3 * speed * t + phase) + 0.25 * torch.randn(count, 3, STEPS)
    y = torch.arange(count) % 2
    start = torch.randint(10, STEPS - 26, (count,))
    burst = torch.sin(torch.arange(16) * 1.6) * 1.5
    for i in range(count):
        channel = 1 if y[i] else 2 * int(torch.randint(0, 2, ()))
        x[i, channel, start[i] : start[i] + 16] += burst
    return x, y, start


x, y, _ = signals(600)


def train(model, steps=150):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        pick = torch.randint(0, len(x), (64,))
        loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    right = (model(fresh).argmax(1) == truth).float().mean()
    print(f"{type(model).__name__}: right on {right:.1%} of new signals")
    return model


torch.manual_seed(1)
fresh, truth, starts = signals(200)


# %%
# A convolutional network
# -----------------------


class Convolutional(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv1d(3, 16, 9, padding=4), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(16, 16, 9, padding=4), nn.ReLU(), nn.AdaptiveMaxPool1d(1),
            nn.Flatten(), nn.Linear(16, 2),
        )  # fmt: skip


model = train(Convolutional())
which = int(torch.nonzero(truth == 1)[0])
e = rp.LRP(model, rp.EpsilonPlus()).explain(fresh[which : which + 1], target=1)
figure = render.signal(
    e.relevance, fresh[which : which + 1], names=["first", "second", "third"], title="EpsilonPlus"
)

# %%
# Was it the burst?
# -----------------
# Here it can be counted: how much of the absolute relevance lies within the sixteen steps of the
# burst, in its channel. By chance it would be 4 %.


def share(model, preset):
    picked = truth == 1
    e = rp.LRP(model, preset).explain(fresh[picked], target=1)
    size = e.relevance.abs()
    inside = torch.stack([s[1, t : t + 16].sum() for s, t in zip(size, starts[picked])])
    return (inside / size.sum((1, 2))).mean()


for preset in (rp.EpsilonPlus(), rp.EpsilonAlpha2Beta1(), rp.UniformEpsilon()):
    print(f"{type(preset).__name__:20} {share(model, preset):.0%}")

# %%
# A recurrent network
# -------------------
# The LSTM reads the signal step by step, four values at a time, and answers at the end. Its
# gates decide how much passes; by the rule of ``LSTMLRP`` they get no relevance, the signals do.


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x):
        frames = x.unflatten(2, (-1, 4)).permute(0, 2, 1, 3).flatten(2)
        return self.head(self.lstm(frames)[0].amax(1))


lstm = train(Recurrent(), 300)
e = rp.LRP(lstm, rp.LSTMLRP()).explain(fresh[which : which + 1], target=1)
print(e.audit)
lstm_figure = render.signal(
    e.relevance, fresh[which : which + 1], names=["first", "second", "third"], title="LSTMLRP"
)
