"""
Which frequencies
=================

A network that listens to tones sees samples, but what it has learned are frequencies. A virtual
layer, the inverse of a Fourier transform, is put before it as a whole; relevance behind that
layer is relevance of frequencies, and sums to the same.
"""

import torch
from torch import nn

import relprop as rp
from relprop import render
from relprop.concepts import DFT, STFT, explain_in

# %%
# Class 1 has a tone of 12 Hz, or rather a burst of it somewhere; class 0 has not. Both have a
# louder tone of 5 Hz.

rate, length = 128, 256
at = torch.arange(length) / rate


def signals(count):
    label = torch.randint(0, 2, (count,))
    phase = 6.28 * torch.rand(count, 2, 1)
    burst = torch.exp(-((at - 0.4 - 1.2 * torch.rand(count, 1)) ** 2) / 0.02)
    x = 1.5 * torch.sin(6.2832 * 5 * at + phase[:, 0]) + 0.3 * torch.randn(count, length)
    return (x + label[:, None] * burst * torch.sin(6.2832 * 12 * at + phase[:, 1]))[
        :, None
    ], label


model = nn.Sequential(
    nn.Conv1d(1, 16, 33, padding=16),
    nn.ReLU(),
    nn.AdaptiveMaxPool1d(1),
    nn.Flatten(),
    nn.Linear(16, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for _ in range(150):
    x, label = signals(64)
    loss = nn.functional.cross_entropy(model(x), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
x, label = signals(200)
print(f"right: {(model(x).argmax(1) == label).float().mean():.0%}")

# %%
# One signal of class 1. Relevance of its samples follows the waves up and down, and mixes both
# tones. Relevance of its frequencies takes them apart: the tone that only class 1 has speaks for
# it, the louder one that both have against it.

x = x[label == 1][:1]
lrp = rp.LRP(model, rp.Epsilon(1e-4))
samples = lrp.explain(x, target=1)
spectrum = explain_in(DFT(), lrp, x, target=1)
figure_samples = render.signal(samples.relevance, x[0], times=at, time_label="seconds")
frequencies = DFT.frequencies(length, rate)
low = frequencies <= 25
figure_spectrum = render.signal(
    spectrum.relevance[..., low],
    times=frequencies[low],
    time_label="Hz",
    title="relevance of frequencies",
)
print(f"sums: {samples.relevance.sum():.3f} and {spectrum.relevance.sum():.3f}")
peak = spectrum.relevance[0, 0].argmax()
print(f"strongest: {frequencies[peak]:.1f} Hz")

# %%
# When
# ----
# A short-time transform says which frequency when: the burst. Rows are frequencies, the highest
# at the top.

basis = STFT(64, hop=8)
both = explain_in(basis, lrp, x, target=1)
keep = basis.frequencies(rate) <= 32
strength = both.inputs.abs()[0, 0][keep]
figure_when = render.grid(
    [both.relevance[0, 0][keep].flip(0), strength.flip(0)],
    ["relevance", "the signal itself, |c|"],
    columns=1,
    caption="0 to 2 seconds across, 0 to 32 Hz upwards",
)
