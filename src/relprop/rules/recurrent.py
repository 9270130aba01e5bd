"""The rule for recurrent layers: relevance through gates and states, step by step backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from relprop.numerics import HALF, Epsilons, check_choice, check_epsilon, nonzero, stabiliser
from relprop.ops.base import Books
from relprop.ops.recurrent import Recurrent, Weights, in_float32
from relprop.rules.base import Rule
from relprop.rules.linear import Bias

GateKind = Literal["all", "half", "proportional", "absolute"]
_GATES = ("all", "half", "proportional", "absolute")


@dataclass(frozen=True)
class Gates(Rule):
    r"""LRP through an LSTM, GRU or plain recurrent layer.

    h = o tanh(c),  c = f c' + i g:  a sum and a linear map take the epsilon rule, activations pass, and a product of
    a gate with pre-activation p and a signal with pre-activation q gives the gate

        "all"           nothing: the signal takes all (LRP-all)
        "half"          1/2 (LRP-half)
        "proportional"  p / (p + q) (LRP-prop)
        "absolute"      |p| / (|p| + |q|) (LRP-abs)

    `bias="distribute"` shares bias and stabiliser among all units below, so that everything is conserved
    (the reference's bias_factor = 1). Relevance that initial states take is in the audit.
    [Arras et al. 2017, eq. 2; Arras et al. 2019, section 3.2]
    """

    gate: GateKind = "all"
    epsilon: Epsilons = 1e-3
    bias: Bias = "absorb"
    home: ClassVar[tuple[str, ...]] = ("recurrent",)

    def __post_init__(self) -> None:
        check_choice(self, "gate", _GATES)
        check_choice(self, "bias", ("absorb", "distribute"))
        check_epsilon(self)

    def recurrent(
        self,
        op: Recurrent,
        operands: Sequence[Tensor],
        outputs: Sequence[Tensor],
        gs: Sequence[Tensor | None],
        books: Books,
    ) -> tuple[Tensor | None, ...]:
        named = dict(op.constants) | dict(zip(op.roles, operands, strict=True))
        given = (*named.values(), *outputs, op.layers[0][0].w_ih)
        if any(t is not None and t.dtype in HALF for t in given):  # autocast mixes types, too
            named, gs, op = {k: in_float32(t) for k, t in named.items()}, [in_float32(g) for g in gs], op.in_float32()
        relevance = [None if g is None else g * nonzero(y) for y, g in zip(outputs, gs, strict=True)]
        walk = _Walk(self, op, named, books)
        walk.forward()
        at = walk.backward(relevance)
        for role, r in at.items():
            if role not in op.roles:
                books.add("constants", r.sum())
        return tuple(at[role] / nonzero(x) for role, x in zip(op.roles, operands, strict=True))

    # -- the steps -----------------------------------------------------------------------------------------------

    def product(self, r: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor | None, Tensor]:
        """Relevance of gate and signal."""
        if self.gate == "all":
            return None, r
        if self.gate == "half":
            return r / 2, r / 2
        if self.gate == "absolute":
            p, q = p.abs(), q.abs()
        share = p / nonzero(p + q)
        return r * share, r * (1 - share)

    def ratio(self, z: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance over the stabilised denominator, and the stabiliser's part of it."""
        stable = stabiliser(self.epsilon)(z)
        return r / stable, stable - z

    def terms(self, parts: Sequence[Tensor], z: Tensor, r: Tensor, units: int, books: Books) -> list[Tensor]:
        """The shares of the addends of a sum."""
        s, rest = self.ratio(z, r)
        if self.bias == "distribute":
            even = (s * rest).sum(-1, keepdim=True) / units
            return [p * s + even for p in parts]
        books.add("epsilon", (s * rest).sum())
        return [p * s for p in parts]

    def maps(
        self,
        inputs: Sequence[Tensor],
        weights: Sequence[Tensor],
        bias: Tensor | None,
        z: Tensor,
        r: Tensor,
        books: Books,
    ) -> list[Tensor]:
        """The shares of the inputs of one linear map of them all: `z = sum_i x_i w_i^T + bias`."""
        s, rest = self.ratio(z, r)
        shares = [x * (s @ w) for x, w in zip(inputs, weights, strict=True)]
        if self.bias == "distribute":
            units = sum(x.shape[-1] for x in inputs)
            even = (s * (rest if bias is None else rest + bias)).sum(-1, keepdim=True) / units
            return [x + even for x in shares]
        if bias is not None:
            books.add("bias", (s * bias).sum())
        books.add("epsilon", (s * rest).sum())
        return shares


@dataclass
class _Direction:
    """One direction of one layer, with what it computed at every step."""

    weights: Weights
    reverse: bool
    steps: list[dict[str, Tensor]] = field(default_factory=list)


class _Walk:
    """The states of one call computed again, and the relevance taken back through them."""

    def __init__(self, rule: Gates, op: Recurrent, named: dict[str, Any], books: Books) -> None:
        self.rule, self.op, self.named, self.books = rule, op, named, books
        self.layers = [[_Direction(w, bool(i)) for i, w in enumerate(ways)] for ways in op.layers]

    # -- forward -------------------------------------------------------------------------------------------------

    def _first_state(self, name: str, index: int) -> Tensor:
        state = self.named[name]
        if self.op.single:
            return state if state.ndim == 2 else state.unsqueeze(0)
        state = state[index]
        return state.unsqueeze(0) if self.op.unbatched else state

    def forward(self) -> None:
        inputs = self.op.steps(self.named["x"])
        index = 0
        for ways in self.layers:
            outputs = []
            for way in ways:
                states = [self._first_state(n, index) for n in ("h", "c") if n in self.named]
                outputs.append(self._run(way, inputs, states))
                index += 1
            inputs = [torch.cat(pair, -1) for pair in zip(*outputs, strict=True)]

    def _run(self, way: _Direction, inputs: list[Tensor], first: list[Tensor]) -> list[Tensor]:
        order = range(len(inputs))
        advance = {"lstm": _lstm, "gru": _gru}.get(self.op.cell, _plain(self.op.cell))
        states = [s[: inputs[0].shape[0]] if not way.reverse else s[:0] for s in first]
        way.steps = [{} for _ in inputs]
        outputs: list[Tensor] = [inputs[0]] * len(inputs)
        for t in reversed(order) if way.reverse else order:
            count = inputs[t].shape[0]
            states = [_fit(s, f, count) for s, f in zip(states, first, strict=True)]
            step, states = advance(way.weights, inputs[t], states)
            way.steps[t] = step
            outputs[t] = states[0]
        return outputs

    # -- backward ------------------------------------------------------------------------------------------------

    def backward(self, relevance: list[Tensor | None]) -> dict[str, Tensor]:
        """Relevance at the outputs -> at the input and the initial states."""
        names: list[str] = [n for n in ("h", "c") if n in self.named]
        first: dict[str, Tensor] = {n: torch.zeros_like(self.named[n]) for n in names}
        last = self._last_states(relevance, names)
        down = self._output_steps(relevance)
        index = sum(len(ways) for ways in self.layers)
        for ways in reversed(self.layers):
            width = down[0].shape[-1] // len(ways)
            index -= len(ways)
            below: list[Tensor] | None = None
            for k, way in enumerate(ways):
                part = [r[..., k * width : (k + 1) * width] for r in down]
                states = [last[n][index + k] if last[n] is not None else None for n in names]
                to_inputs, to_states = self._back(way, part, states)
                for n, r in zip(names, to_states, strict=True):
                    self._store(first[n], index + k, r)
                below = to_inputs if below is None else [x + y for x, y in zip(below, to_inputs, strict=True)]
            assert below is not None
            down = below
        return {"x": self.op.joined(down, self.named["x"]), **first}

    def _store(self, target: Tensor, index: int, r: Tensor) -> None:
        if self.op.single:
            target.copy_(r.reshape(target.shape))
        elif self.op.unbatched:
            target[index] = r[0]
        else:
            target[index] = r

    def _output_steps(self, relevance: list[Tensor | None]) -> list[Tensor]:
        top = self.layers[-1]
        shapes = [s["h'"].shape for s in top[0].steps]
        zeros = [top[0].steps[t]["h'"].new_zeros(*shape[:-1], shape[-1] * len(top)) for t, shape in enumerate(shapes)]
        if self.op.single or relevance[0] is None:
            return zeros
        return self.op.steps(relevance[0])

    def _last_states(self, relevance: list[Tensor | None], names: list[str]) -> dict[str, Any]:
        last: dict[str, Any] = {}
        given = relevance if self.op.single else relevance[1:]
        for n, r in zip(names, given, strict=True):
            if r is None:
                last[n] = None
            elif self.op.single:
                last[n] = [r if r.ndim == 2 else r.unsqueeze(0)]
            else:
                last[n] = r.unsqueeze(1) if self.op.unbatched else r
        return last

    def _back(
        self, way: _Direction, outputs: list[Tensor], last: list[Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor]]:
        steps = way.steps
        order = list(range(len(steps)))
        if way.reverse:
            order.reverse()
        back = {"lstm": self._back_lstm, "gru": self._back_gru}.get(self.op.cell, self._back_plain)
        widest = max(s["x"].shape[0] for s in steps)
        carried = [
            s.new_zeros(widest, s.shape[-1]) if r is None else r.clone()
            for s, r in zip([steps[0][n] for n in ("h", "c") if n in steps[0]], last, strict=True)
        ]
        to_inputs = list(outputs)
        for t in reversed(order):
            count = steps[t]["x"].shape[0]
            states = [c[:count] for c in carried]
            states[0] = states[0] + outputs[t]
            to_inputs[t], found = back(way.weights, steps[t], states)
            for c, new in zip(carried, found, strict=True):
                c[:count] = new
        return to_inputs, carried

    def _back_lstm(self, w: Weights, s: dict[str, Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        rule, books = self.rule, self.books
        r_h, r_c = states
        hidden = s["c"].shape[-1]
        if w.w_hr is not None:
            (r_h,) = rule.maps([s["m"]], [w.w_hr], None, s["h'"], r_h, books)
        r_o, to_cell = rule.product(r_h, s["po"], s["c'"])
        r_c = r_c + to_cell
        kept, added = rule.terms([s["f"] * s["c"], s["i"] * s["g"]], s["c'"], r_c, 2 * hidden, books)
        r_f, r_c = rule.product(kept, s["pf"], s["c"])
        r_i, r_g = rule.product(added, s["pi"], s["pg"])
        parts = [("i", r_i), ("f", r_f), ("g", r_g), ("o", r_o)]
        r_x, r_h = self._gates(w, s, parts, 4, "ifgo")
        return r_x, [r_h, r_c]

    def _gates(
        self,
        w: Weights,
        s: dict[str, Tensor],
        parts: list[tuple[str, Tensor | None]],
        count: int,
        letters: str,
    ) -> tuple[Tensor, Tensor]:
        """Through the linear maps of the gates that carry anything."""
        named = [(n, r) for n, r in parts if r is not None]
        rows = [letters.index(n) for n, _ in named]
        pick = lambda t: torch.cat([t.chunk(count)[i] for i in rows])  # noqa: E731
        bias = None if w.b_ih is None or w.b_hh is None else pick(w.b_ih + w.b_hh)
        z = torch.cat([s["p" + n] for n, _ in named], -1)
        r = torch.cat([r for _, r in named], -1)
        r_x, r_h = self.rule.maps([s["x"], s["h"]], [pick(w.w_ih), pick(w.w_hh)], bias, z, r, self.books)
        return r_x, r_h

    def _back_gru(self, w: Weights, s: dict[str, Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        rule, books = self.rule, self.books
        (r_h,) = states
        hidden = s["h"].shape[-1]
        new, old = rule.terms([(1 - s["z"]) * s["n"], s["z"] * s["h"]], s["h'"], r_h, 2 * hidden, books)
        r_z1, r_n = rule.product(new, -s["pz"], s["pn"])
        r_z2, r_h = rule.product(old, s["pz"], s["h"])
        w_in, w_hn = w.w_ih.chunk(3)[2], w.w_hh.chunk(3)[2]
        b_in = None if w.b_ih is None else w.b_ih.chunk(3)[2]
        b_hn = None if w.b_hh is None else w.b_hh.chunk(3)[2]
        if r_z1 is None or r_z2 is None:  # the reset gate is a constant factor of the state's map
            s_, rest = rule.ratio(s["pn"], r_n)
            r_x, r_u = s["x"] * (s_ @ w_in), s["h"] * ((s_ * s["r"]) @ w_hn)
            bias = None if b_in is None or b_hn is None else b_in + s["r"] * b_hn
            if rule.bias == "distribute":
                units = s["x"].shape[-1] + hidden
                even = (s_ * (rest if bias is None else rest + bias)).sum(-1, keepdim=True) / units
                return r_x + even, [r_h + r_u + even]
            books.add("epsilon", (s_ * rest).sum())
            if bias is not None:
                books.add("bias", (s_ * bias).sum())
            return r_x, [r_h + r_u]
        gated, direct = rule.terms([s["r"] * s["u"], s["a"]], s["pn"], r_n, 2 * hidden, books)
        r_r, r_u = rule.product(gated, s["pr"], s["u"])
        (r_x,) = rule.maps([s["x"]], [w_in], b_in, s["a"], direct, books)
        (to_h,) = rule.maps([s["h"]], [w_hn], b_hn, s["u"], r_u, books)
        more_x, more_h = self._gates(w, s, [("r", r_r), ("z", r_z1 + r_z2)], 3, "rzn")
        return r_x + more_x, [r_h + to_h + more_h]

    def _back_plain(self, w: Weights, s: dict[str, Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        bias = None if w.b_ih is None or w.b_hh is None else w.b_ih + w.b_hh
        r_x, r_h = self.rule.maps([s["x"], s["h"]], [w.w_ih, w.w_hh], bias, s["p"], states[0], self.books)
        return r_x, [r_h]


def _fit(state: Tensor, first: Tensor, count: int) -> Tensor:
    """The state of the sequences that are still running: fewer in time order, more in reverse."""
    have = state.shape[0]
    if have >= count:
        return state[:count]
    return torch.cat([state, first[have:count]])


def _linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, w, b)


def _lstm(w: Weights, x: Tensor, states: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    h, c = states
    p = _linear(x, w.w_ih, w.b_ih) + _linear(h, w.w_hh, w.b_hh)
    pi, pf, pg, po = p.chunk(4, -1)
    i, f, g, o = pi.sigmoid(), pf.sigmoid(), pg.tanh(), po.sigmoid()
    new = f * c + i * g
    m = o * new.tanh()
    out = m if w.w_hr is None else _linear(m, w.w_hr, None)
    step = {"x": x, "h": h, "c": c, "pi": pi, "pf": pf, "pg": pg, "po": po, "i": i, "f": f, "g": g, "o": o,
            "c'": new, "m": m, "h'": out}  # fmt: skip
    return step, [out, new]


def _gru(w: Weights, x: Tensor, states: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    (h,) = states
    xr, xz, a = _linear(x, w.w_ih, w.b_ih).chunk(3, -1)
    hr, hz, u = _linear(h, w.w_hh, w.b_hh).chunk(3, -1)
    pr, pz = xr + hr, xz + hz
    r, z = pr.sigmoid(), pz.sigmoid()
    pn = a + r * u
    n = pn.tanh()
    out = (1 - z) * n + z * h
    step = {"x": x, "h": h, "pr": pr, "pz": pz, "pn": pn, "r": r, "z": z, "n": n, "a": a, "u": u, "h'": out}
    return step, [out]


def _plain(cell: str) -> Any:
    function = torch.relu if cell == "rnn_relu" else torch.tanh

    def advance(w: Weights, x: Tensor, states: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        p = _linear(x, w.w_ih, w.b_ih) + _linear(states[0], w.w_hh, w.b_hh)
        out = function(p)
        return {"x": x, "h": states[0], "p": p, "h'": out}, [out]

    return advance
