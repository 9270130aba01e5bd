"""Recurrent layers in explicit relevance form, in numpy, one sample at a time: the oracle.

The LSTM part follows the algorithm that Arras et al. published (2017, arXiv 1706.07206; 2019, arXiv
1909.12114): the hidden state's relevance goes to the cell, the cell's is split between the forget and the
input branch, gates take what the gate rule gives them, and linear maps take the epsilon rule

    R_d = sum_m (w_md x_d + factor (b_m + eps sign(z_m)) / units) / (z_m + eps sign(z_m)) R_m,    sign(0) = 1

where ``units`` counts all lower units of the map: inputs and hidden units for a gate's pre-activation, twice
the hidden size for the cell's sum. With ``factor`` 1 nothing is lost. Weights are torch's: gates stand one
above the other as i, f, g, o (LSTM) and r, z, n (GRU).

Gate rules for a product of a gate with pre-activation p and a signal with pre-activation q: ``all`` gives the
signal everything, ``half`` splits evenly, ``proportional`` gives the gate p / (p + q), ``absolute``
|p| / (|p| + |q|). The pre-activation of the cell state is the cell state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Rule:
    """What the relevance of a recurrent layer depends on."""

    gate: str = "all"
    epsilon: float = 1e-3
    factor: float = 0.0

    def sign(self, z: Array) -> Array:
        return np.where(z >= 0, 1.0, -1.0)

    def linear(self, x: Array, w: Array, b: Array, z: Array, r: Array, units: int) -> Array:
        """``x [D], w [M, D], b, z, r [M] -> [D]``."""
        eps = self.epsilon * self.sign(z)
        parts = w * x[None, :] + self.factor * (b + eps)[:, None] / units
        return (parts / (z + eps)[:, None] * r[:, None]).sum(0)

    def part(self, part: Array, z: Array, r: Array, units: int) -> Array:
        """The share of one addend of a sum: the linear map with the unit matrix."""
        return self.linear(part, np.eye(len(part)), np.zeros(len(part)), z, r, units)

    def product(self, r: Array, p: Array, q: Array) -> tuple[Array, Array]:
        """Relevance of gate and signal, from their pre-activations."""
        if self.gate == "all":
            return np.zeros_like(r), r
        if self.gate == "half":
            return r / 2, r / 2
        if self.gate == "absolute":
            p, q = np.abs(p), np.abs(q)
        share = p / (p + q)
        return r * share, r * (1 - share)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@dataclass
class Direction:
    """One direction of one layer: its weights and, after ``forward``, everything it computed."""

    w_ih: Array
    w_hh: Array
    b_ih: Array
    b_hh: Array
    w_hr: Array | None = None
    steps: list[dict[str, Array]] = field(default_factory=list)

    def chunks(self, count: int) -> list[tuple[Array, Array, Array, Array]]:
        parts = [np.split(t, count) for t in (self.w_ih, self.w_hh, self.b_ih, self.b_hh)]
        return list(zip(*parts, strict=True))  # type: ignore[arg-type]


class LSTM(Direction):
    """``forward(x [T, I], (h, c))``, then ``back`` takes the relevance of outputs and last states down."""

    def forward(self, x: Array, state: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        h, c = state
        self.steps = []
        outputs = []
        for x_t in x:
            s = {"x": x_t, "h": h, "c": c}
            for name, (u, v, b, d) in zip("ifgo", self.chunks(4), strict=True):
                s["p" + name] = u @ x_t + b + v @ h + d
            s |= {"i": sigmoid(s["pi"]), "f": sigmoid(s["pf"]), "g": np.tanh(s["pg"]), "o": sigmoid(s["po"])}
            c = s["f"] * c + s["i"] * s["g"]
            h = s["o"] * np.tanh(c)
            s |= {"c'": c, "m": h}
            if self.w_hr is not None:
                h = self.w_hr @ h
            s["h'"] = h
            self.steps.append(s)
            outputs.append(h)
        return np.stack(outputs), (h, c)

    def back(self, r_out: Array, rule: Rule, r_h: Array, r_c: Array) -> tuple[Array, Array, Array]:
        """``r_out [T, H]``, relevance of the last states -> of the input ``[T, I]`` and the first states."""
        hidden = len(r_c)
        r_x = np.zeros((len(self.steps), self.w_ih.shape[1]))
        chunks = dict(zip("ifgo", self.chunks(4), strict=True))
        for t in reversed(range(len(self.steps))):
            s = self.steps[t]
            r_h = r_h + r_out[t]
            if self.w_hr is not None:
                r_h = rule.linear(s["m"], self.w_hr, np.zeros(len(s["h'"])), s["h'"], r_h, hidden)
            r = {}
            r["o"], to_cell = rule.product(r_h, s["po"], s["c'"])
            r_c = r_c + to_cell
            kept = rule.part(s["f"] * s["c"], s["c'"], r_c, 2 * hidden)
            added = rule.part(s["i"] * s["g"], s["c'"], r_c, 2 * hidden)
            r["f"], r_c = rule.product(kept, s["pf"], s["c"])
            r["i"], r["g"] = rule.product(added, s["pi"], s["pg"])
            r_h = np.zeros(len(s["h"]))
            for name, (u, v, b, d) in chunks.items():
                units = u.shape[1] + v.shape[1]
                r_x[t] += rule.linear(s["x"], u, b + d, s["p" + name], r[name], units)
                r_h += rule.linear(s["h"], v, b + d, s["p" + name], r[name], units)
        return r_x, r_h, r_c


class GRU(Direction):
    """The same for ``h' = (1 - z) n + z h, n = tanh(W x + b + r (V h + d))``.

    The reset gate multiplies a linear map of the state; with ``all`` it is a constant factor of that map.
    """

    def forward(self, x: Array, state: Array) -> tuple[Array, Array]:
        h = state
        self.steps = []
        outputs = []
        (ur, vr, br, dr), (uz, vz, bz, dz), (un, vn, bn, dn) = self.chunks(3)
        for x_t in x:
            s = {"x": x_t, "h": h}
            s["pr"] = ur @ x_t + br + vr @ h + dr
            s["pz"] = uz @ x_t + bz + vz @ h + dz
            s |= {"r": sigmoid(s["pr"]), "z": sigmoid(s["pz"])}
            s["a"], s["u"] = un @ x_t + bn, vn @ h + dn
            s["pn"] = s["a"] + s["r"] * s["u"]
            s["n"] = np.tanh(s["pn"])
            h = (1 - s["z"]) * s["n"] + s["z"] * h
            s["h'"] = h
            self.steps.append(s)
            outputs.append(h)
        return np.stack(outputs), h

    def back(self, r_out: Array, rule: Rule, r_h: Array) -> tuple[Array, Array]:
        """``r_out [T, H]``, relevance of the last state -> of the input ``[T, I]`` and of the first state.

        The update gate stands in both products as z and 1 - z, whose pre-activations are p and -p.
        """
        hidden = len(r_h)
        r_x = np.zeros((len(self.steps), self.w_ih.shape[1]))
        (ur, vr, br, dr), (uz, vz, bz, dz), (un, vn, bn, dn) = self.chunks(3)
        for t in reversed(range(len(self.steps))):
            s = self.steps[t]
            r_h = r_h + r_out[t]
            new = rule.part((1 - s["z"]) * s["n"], s["h'"], r_h, 2 * hidden)
            old = rule.part(s["z"] * s["h"], s["h'"], r_h, 2 * hidden)
            r_z1, r_n = rule.product(new, -s["pz"], s["pn"])
            r_z2, r_h = rule.product(old, s["pz"], s["h"])
            x, h = s["x"], s["h"]
            units = len(x) + len(h)
            if rule.gate == "all":
                r_x[t] += rule.linear(x, un, bn + s["r"] * dn, s["pn"], r_n, units)
                r_h = r_h + rule.linear(h, s["r"][:, None] * vn, bn + s["r"] * dn, s["pn"], r_n, units)
            else:
                r_r, r_u = rule.product(rule.part(s["r"] * s["u"], s["pn"], r_n, 2 * hidden), s["pr"], s["u"])
                r_a = rule.part(s["a"], s["pn"], r_n, 2 * hidden)
                r_x[t] += rule.linear(x, un, bn, s["a"], r_a, len(x))
                r_h = r_h + rule.linear(h, vn, dn, s["u"], r_u, len(h))
                for (u, v, b), p, r in (
                    ((ur, vr, br + dr), s["pr"], r_r),
                    ((uz, vz, bz + dz), s["pz"], r_z1 + r_z2),
                ):
                    r_x[t] += rule.linear(x, u, b, p, r, units)
                    r_h = r_h + rule.linear(h, v, b, p, r, units)
        return r_x, r_h


class RNN(Direction):
    """``h' = f(W x + b + V h + d)`` with any function that relevance passes."""

    function = staticmethod(np.tanh)

    def forward(self, x: Array, state: Array) -> tuple[Array, Array]:
        h = state
        self.steps = []
        for x_t in x:
            s = {"x": x_t, "h": h, "p": self.w_ih @ x_t + self.b_ih + self.w_hh @ h + self.b_hh}
            h = self.function(s["p"])
            s["h'"] = h
            self.steps.append(s)
        return np.stack([s["h'"] for s in self.steps]), h

    def back(self, r_out: Array, rule: Rule, r_h: Array) -> tuple[Array, Array]:
        r_x = np.zeros((len(self.steps), self.w_ih.shape[1]))
        for t in reversed(range(len(self.steps))):
            s = self.steps[t]
            r = r_h + r_out[t]
            units, b = self.w_ih.shape[1] + self.w_hh.shape[1], self.b_ih + self.b_hh
            r_x[t] = rule.linear(s["x"], self.w_ih, b, s["p"], r, units)
            r_h = rule.linear(s["h"], self.w_hh, b, s["p"], r, units)
        return r_x, r_h


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


class ReluRNN(RNN):
    function = staticmethod(relu)


class Stacked:
    """All layers and directions of a torch recurrent module, built from its state dict."""

    def __init__(self, module: Any) -> None:
        kinds: dict[str, type[Direction]] = {"LSTM": LSTM, "GRU": GRU, "RNN_TANH": RNN, "RNN_RELU": ReluRNN}
        kind = kinds[module.mode]
        self.cell = module.mode == "LSTM"
        self.both = 2 if module.bidirectional else 1
        self.hidden = module.hidden_size
        self.width = module.proj_size or module.hidden_size
        state = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
        self.layers: list[list[Direction]] = []
        for layer in range(module.num_layers):
            directions = []
            for suffix in ("", "_reverse")[: self.both]:
                end = f"_l{layer}{suffix}"
                zero = np.zeros(len(state["weight_ih" + end]))
                directions.append(
                    kind(
                        state["weight_ih" + end],
                        state["weight_hh" + end],
                        state.get("bias_ih" + end, zero),
                        state.get("bias_hh" + end, zero),
                        state.get("weight_hr" + end),
                    )
                )
            self.layers.append(directions)

    def start(self) -> Any:
        """Zero states ``[layers * directions, H]``."""
        count = len(self.layers) * self.both
        h = np.zeros((count, self.width))
        return (h, np.zeros((count, self.hidden))) if self.cell else h

    def forward(self, x: Array, state: Any = None) -> tuple[Array, Any]:
        state = self.start() if state is None else state
        last: list[Any] = []
        for number, directions in enumerate(self.layers):
            outputs = []
            for side, direction in enumerate(directions):
                at = number * self.both + side
                first = (state[0][at], state[1][at]) if self.cell else state[at]
                order = slice(None, None, -1) if side else slice(None)
                out, end = direction.forward(x[order], first)  # type: ignore[attr-defined]
                outputs.append(out[order])
                last.append(end)
            x = np.concatenate(outputs, -1)
        if self.cell:
            return x, (np.stack([h for h, _ in last]), np.stack([c for _, c in last]))
        return x, np.stack(last)

    def back(self, r: Array, rule: Rule, r_last: Any = None) -> tuple[Array, Any]:
        """Relevance of the outputs ``[T, directions * H]`` and last states -> of input and first states."""
        r_last = self.start() if r_last is None else r_last
        first: dict[int, Any] = {}
        for number in reversed(range(len(self.layers))):
            below = 0.0
            for side, direction in enumerate(self.layers[number]):
                at = number * self.both + side
                order = slice(None, None, -1) if side else slice(None)
                part = r[:, side * self.width : (side + 1) * self.width][order]
                ends = (r_last[0][at], r_last[1][at]) if self.cell else (r_last[at],)
                r_x, *states = direction.back(part, rule, *ends)  # type: ignore[attr-defined]
                below = below + r_x[order]
                first[at] = states
            r = np.asarray(below)
        ordered = [first[at] for at in sorted(first)]
        if self.cell:
            return r, (np.stack([h for h, _ in ordered]), np.stack([c for _, c in ordered]))
        return r, np.stack([h for (h,) in ordered])
