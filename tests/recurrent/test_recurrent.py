"""Recurrent networks against the explicit numpy reference, float64, relevance independent of the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from tests.recurrent.reference import Rule, Stacked
from tests.reference.recipe import fill
from tests.support.compare import assert_close

STEPS, BATCH, INPUT, HIDDEN, CLASSES = 5, 2, 3, 4, 3
TOLERANCE = 1e-8
BIAS = {"absorb": 0.0, "distribute": 1.0}
GATES = ["all", "half", "proportional", "absolute"]


def rule_of(gate: str = "all", epsilon: float = 1e-3, bias: str = "absorb") -> tuple[Any, Rule]:
    """The library's preset and the reference's rule of the same settings."""
    return rp.LSTMLRP(gate=gate, epsilon=epsilon, bias=bias), Rule(gate, epsilon, BIAS[bias])


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def draw(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def first_tensor(found: Any) -> Tensor:
    while not isinstance(found, Tensor):
        found = next(iter(found.values())) if isinstance(found, dict) else found[0]
    return found


def head_back(head: nn.Linear, x: np.ndarray, r: np.ndarray, rule: Rule) -> np.ndarray:
    w, b = numbers(head.weight), numbers(head.bias)
    return rule.linear(x, w, b, w @ x + b, r, w.shape[1])


class Outputs(nn.Module):
    """A recurrent layer alone; every output is explained."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.layer = kind(INPUT, HIDDEN, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


LAYERS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm both ways": (nn.LSTM, {"bidirectional": True}),
    "lstm stacked": (nn.LSTM, {"num_layers": 2}),
    "lstm stacked both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm without bias": (nn.LSTM, {"bias": False}),
    "lstm projected": (nn.LSTM, {"proj_size": 2, "num_layers": 2}),
}


@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", LAYERS)
def test_lstm(name: str, gate: str, bias: str) -> None:
    kind, settings = LAYERS[name]
    model = fill(Outputs(kind, **settings).double())
    reference = Stacked(model.layer)
    preset, rule = rule_of(gate, bias=bias)
    x = draw(BATCH, STEPS, INPUT)
    y = model(x).detach()
    r = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    explanation = rp.LRP(model, preset).explain(x, target=r)

    assert_close(explanation.output, y, rtol=1e-12, label="the forward")  # torch picks a kernel by who needs grad
    for i in range(BATCH):
        out, _ = reference.forward(numbers(x[i]))
        assert_close(torch.from_numpy(out), y[i], rtol=1e-12, label="the reference's forward")
        expected, _ = reference.back(numbers(r[i]), rule)
        assert_close(explanation.relevance[i], torch.from_numpy(expected), rtol=TOLERANCE, label=f"sample {i}")


@pytest.mark.parametrize("name", ["lstm", "lstm stacked both ways", "lstm projected"])
@pytest.mark.parametrize("gate", GATES)
def test_nothing_is_lost_when_the_bias_is_distributed(name: str, gate: str) -> None:
    """A law of the reference itself: with factor 1 input and initial states share the whole relevance."""
    kind, settings = LAYERS[name]
    reference = Stacked(fill(Outputs(kind, **settings).double()).layer)
    out, _ = reference.forward(numbers(draw(STEPS, INPUT)))
    r = np.random.default_rng(0).normal(size=out.shape)
    r_x, (r_h, r_c) = reference.back(r, Rule(gate, 1e-3, 1.0))
    assert abs(r_x.sum() + r_h.sum() + r_c.sum() - r.sum()) < 1e-9 * np.abs(r).sum()


@pytest.mark.parametrize("kind, gate", [(nn.RNN, "all"), *((nn.GRU, gate) for gate in GATES)])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_gru_and_rnn(kind: type[nn.RNNBase], settings: dict[str, Any], gate: str) -> None:
    """No algorithm is published for these; as epsilon goes to zero every way to unroll them agrees."""
    model = fill(Outputs(kind, **settings).double())
    preset, rule = rule_of(gate, epsilon=1e-13)
    x = draw(BATCH, STEPS, INPUT)
    y = model(x).detach()
    r = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    explanation = rp.LRP(model, preset).explain(x, target=r)

    reference = Stacked(model.layer)
    for i in range(BATCH):
        out, _ = reference.forward(numbers(x[i]))
        assert_close(torch.from_numpy(out), y[i], rtol=1e-12, label="the reference's forward")
        expected, _ = reference.back(numbers(r[i]), rule)
        assert_close(explanation.relevance[i], torch.from_numpy(expected), rtol=TOLERANCE, label=f"sample {i}")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("gate", GATES)
def test_the_books_close_with_distributed_biases(kind: type[nn.RNNBase], gate: str) -> None:
    """Then input and initial states, which are constants here, share everything."""
    model = fill(Outputs(kind, num_layers=2, bidirectional=True).double())
    x = draw(BATCH, STEPS, INPUT)
    r = torch.randn(model(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    explanation = rp.LRP(model, rp.LSTMLRP(gate=gate, bias="distribute")).explain(x, target=r)
    audit = explanation.audit
    scale = audit.scale
    assert abs(audit.bias) < 1e-12 * scale and abs(audit.epsilon) < 1e-12 * scale
    assert abs(explanation.relevance.sum() + audit.constants + audit.excess - r.sum()) < 1e-9 * scale
    assert audit.constants != 0


def test_rnn_with_relu() -> None:
    model = fill(Outputs(nn.RNN, nonlinearity="relu", num_layers=2).double())
    preset, rule = rule_of()
    x, r = draw(BATCH, STEPS, INPUT), draw(BATCH, STEPS, HIDDEN, seed=6)
    explanation = rp.LRP(model, preset).explain(x, target=r)
    reference = Stacked(model.layer)
    for i in range(BATCH):
        reference.forward(numbers(x[i]))
        expected, _ = reference.back(numbers(r[i]), rule)
        assert_close(explanation.relevance[i], torch.from_numpy(expected), rtol=TOLERANCE)


class Attentive(nn.Module):
    """A two-way LSTM whose states are weighed by learned attention."""

    def __init__(self, product: str) -> None:
        super().__init__()
        self.product = product
        self.layer = nn.LSTM(INPUT, HIDDEN, batch_first=True, bidirectional=True)
        self.inner = nn.Linear(2 * HIDDEN, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        self.head = nn.Linear(2 * HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x)
        weights = self.score(torch.tanh(self.inner(states))).softmax(1)  # [N, T, 1]
        if self.product == "sum":
            context = (weights * states).sum(1)
        elif self.product == "bmm":
            context = torch.bmm(weights.transpose(1, 2), states).squeeze(1)
        else:
            context = torch.einsum("nto,nth->nh", weights, states)
        return self.head(context)


@pytest.mark.parametrize("product", ["sum", "bmm", "einsum"])
def test_attention_over_all_states(product: str) -> None:
    """The weights are gates: with ``all`` the states take everything, each its term of the weighted sum."""
    model = fill(Attentive(product).double())
    preset, rule = rule_of()
    x, r = draw(BATCH, STEPS, INPUT), draw(BATCH, CLASSES, seed=6)

    explanation = rp.LRP(model, preset).explain(x, target=r)

    reference = Stacked(model.layer)
    for i in range(BATCH):
        states, _ = reference.forward(numbers(x[i]))
        inner = np.tanh(states @ numbers(model.inner.weight).T + numbers(model.inner.bias))
        scores = (inner @ numbers(model.score.weight).T)[:, 0]
        weights = np.exp(scores) / np.exp(scores).sum()
        context = weights @ states
        r_context = head_back(model.head, context, numbers(r[i]), rule)
        r_states = weights[:, None] * states / context * r_context
        expected, _ = reference.back(r_states, rule)
        assert_close(explanation.relevance[i], torch.from_numpy(expected), rtol=TOLERANCE, label=f"sample {i}")


class Packed(nn.Module):
    """A stacked recurrent layer over sequences of several lengths, and a class from its last state."""

    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.layer = kind(INPUT, HIDDEN, num_layers=2, batch_first=True, **settings)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.layer(packed)
        last = last[0] if isinstance(last, tuple) else last
        return self.head(last[-1])


@pytest.mark.parametrize("kind, epsilon", [(nn.GRU, 1e-13), (nn.LSTM, 1e-3)], ids=["gru", "lstm"])
def test_packed_sequences(kind: type[nn.RNNBase], epsilon: float) -> None:
    lengths = [3, 5, 1]
    model = fill(Packed(kind).double())
    preset, rule = rule_of(epsilon=epsilon)
    x, r = draw(3, 5, INPUT), draw(3, CLASSES, seed=6)

    explanation = rp.LRP(model, preset).explain(x, torch.tensor(lengths), target=r)

    found = first_tensor(explanation.relevance)
    reference = Stacked(model.layer)
    for i, length in enumerate(lengths):
        out, last = reference.forward(numbers(x[i, :length]))
        h = last[0] if reference.cell else last
        r_out = np.zeros_like(out)
        r_out[-1] = head_back(model.head, h[-1], numbers(r[i]), rule)
        expected = np.zeros((5, INPUT))
        expected[:length], _ = reference.back(r_out, rule)
        assert_close(found[i], torch.from_numpy(expected), rtol=TOLERANCE, label=f"sample {i}")


class Repadded(nn.Module):
    """Packed, both ways, unpacked, and the mean over the real steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(INPUT, HIDDEN, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)
        return states.sum(1) / lengths[:, None]


def test_packed_and_unpacked_again() -> None:
    lengths = [3, 5, 1]
    model = fill(Repadded().double())
    preset, rule = rule_of(epsilon=1e-13)
    x, r = draw(3, 5, INPUT), draw(3, 2 * HIDDEN, seed=6)
    explanation = rp.LRP(model, preset).explain(x, torch.tensor(lengths), target=r)
    found = first_tensor(explanation.relevance)
    reference = Stacked(model.layer)
    for i, length in enumerate(lengths):
        states, _ = reference.forward(numbers(x[i, :length]))
        expected = np.zeros((5, INPUT))
        expected[:length], _ = reference.back(states / states.sum(0) * numbers(r[i]), rule)
        assert_close(found[i], torch.from_numpy(expected), rtol=TOLERANCE, label=f"sample {i}")


class States(nn.Module):
    """Initial states are inputs, last states are outputs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.layer = nn.LSTM(INPUT, HIDDEN, num_layers=2, **settings)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        out, (last_h, last_c) = self.layer(x, (h, c))
        return torch.cat((out.flatten(), last_h.flatten(), last_c.flatten()))


@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_initial_and_last_states(bias: str, batched: bool) -> None:
    """The initial states' share is theirs, and the last states can be explained."""
    model = fill(States(bidirectional=True).double())
    preset, rule = rule_of(bias=bias)
    batch = (1,) if batched else ()
    x, h, c = draw(STEPS, *batch, INPUT), draw(4, *batch, HIDDEN, seed=7), draw(4, *batch, HIDDEN, seed=8)
    y = model(x, h, c).detach()
    r = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    explanation = rp.LRP(model, preset).explain(x, h, c, target=r)

    reference = Stacked(model.layer)
    reference.forward(*[numbers(x).reshape(STEPS, INPUT), tuple(numbers(t).reshape(4, HIDDEN) for t in (h, c))])
    parts = np.split(numbers(r), [STEPS * 2 * HIDDEN, STEPS * 2 * HIDDEN + 4 * HIDDEN])
    r_out, r_h, r_c = parts[0].reshape(STEPS, -1), parts[1].reshape(4, -1), parts[2].reshape(4, -1)
    r_x, (r_h, r_c) = reference.back(r_out, rule, (r_h, r_c))
    for found, expected in zip(explanation.relevance, (r_x, r_h, r_c), strict=True):
        assert_close(found, torch.from_numpy(expected).reshape(found.shape), rtol=TOLERANCE)


class Loop(nn.Module):
    """A loop over nn.LSTMCell, as users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(INPUT, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], HIDDEN)
        for x_t in x.unbind(1):
            h, c = self.cell(x_t, (h, c))
        return self.head(h)


class ByHand(Loop):
    """The same cell written out by hand."""

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], HIDDEN)
        for t in range(x.shape[1]):
            gates = nn.functional.linear(x[:, t], self.cell.weight_ih, self.cell.bias_ih)
            gates = gates + nn.functional.linear(h, self.cell.weight_hh, self.cell.bias_hh)
            i, f, g, o = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


def loop_reference(model: Any, x: Tensor, r: Tensor, rule: Rule) -> Tensor:
    layer = nn.LSTM(INPUT, HIDDEN).double()
    layer.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    reference = Stacked(layer)
    found = []
    for i in range(len(x)):
        out, (h, _) = reference.forward(numbers(x[i]))
        r_out = np.zeros_like(out)
        r_out[-1] = head_back(model.head, h[-1], numbers(r[i]), rule)
        found.append(torch.from_numpy(reference.back(r_out, rule)[0]))
    return torch.stack(found)


@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("gate", GATES)
def test_cell_loop(gate: str, bias: str) -> None:
    model = fill(Loop().double())
    preset, rule = rule_of(gate, bias=bias)
    x, r = draw(BATCH, STEPS, INPUT), draw(BATCH, CLASSES, seed=6)
    explanation = rp.LRP(model, preset).explain(x, target=r)
    assert_close(explanation.relevance, loop_reference(model, x, r, rule), rtol=TOLERANCE)


@pytest.mark.parametrize("gate", ["all", "half"])
def test_cell_written_by_hand(gate: str) -> None:
    """What is a gate is known from where it came from; the sums split without the cell's epsilon."""
    model = fill(ByHand().double())
    preset, rule = rule_of(gate, epsilon=1e-13)
    x, r = draw(BATCH, STEPS, INPUT), draw(BATCH, CLASSES, seed=6)
    explanation = rp.LRP(model, preset).explain(x, target=r)
    assert_close(explanation.relevance, loop_reference(model, x, r, rule), rtol=1e-7)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.RNNCell], ids=["gru", "rnn"])
def test_other_cells_equal_their_layers(kind: type[nn.RNNCellBase]) -> None:
    """A loop over a cell is the layer of that kind."""

    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(INPUT, HIDDEN)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[0], HIDDEN)
            found = []
            for x_t in x.unbind(1):
                h = self.cell(x_t, h)
                found.append(h)
            return torch.stack(found, 1)

    cells = fill(Cells().double())
    layers = Outputs(nn.GRU if kind is nn.GRUCell else nn.RNN).double().eval()
    layers.layer.load_state_dict({f"{name}_l0": value for name, value in cells.cell.state_dict().items()})
    x, r = draw(BATCH, STEPS, INPUT), draw(BATCH, STEPS, HIDDEN, seed=6)
    preset, _ = rule_of()
    found, expected = (rp.LRP(model, preset).explain(x, target=r).relevance for model in (cells, layers))
    assert_close(found, expected, rtol=1e-10)


def test_one_site_with_its_own_audit_line() -> None:
    """An unrolled layer is one site; with the initial states in the books nothing stays unexplained."""
    model = fill(Outputs(nn.LSTM, num_layers=2).double())
    x = draw(BATCH, STEPS, INPUT)
    lrp = rp.LRP(model, rp.LSTMLRP())
    assert len([site for site in lrp.plan(x).sites if "layer" in site.paths]) == 1
    r = draw(BATCH, STEPS, HIDDEN, seed=6)
    explanation = lrp.explain(x, target=r)
    assert abs(explanation.audit.unexplained) < 1e-9 * r.abs().sum()
