"""Flow: relevance by layer and by part of a layer, the books as bars, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp
from relprop.errors import InputError
from relprop.record.books import ENTRIES as BOOKED
from relprop.render import audit_bars, by_expert, by_head, experts, flow, head_relevance, heads, matrix, palette, pixels
from relprop.render.flow import ENTRIES, absorbed_rows, layer_rows
from tests.render.test_figure import pictures, texts


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()


X = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def explained(**options: Any) -> rp.Explanation:
    return rp.LRP(network(), rp.Zero()).explain(X, target=1, layers=["0", "1"], **options)


def bar_widths(axis: Any) -> list[float]:
    return [float(bar.get_width()) for bar in axis.patches]


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_yticklabels()]


# -- by layer ----------------------------------------------------------------------------------------------------------


def test_layers_by_hand_from_the_output_down() -> None:
    model, found = network(), explained()
    w = model[2].weight.detach()[1]
    hidden = model[1](model[0](X)).detach()
    at_hidden = hidden * w  # LRP-0: the last map's bias is absorbed
    names, positive, negative = zip(*layer_rows(found), strict=True)
    assert names == ("output", "1", "0", "input")
    seed = float(model(X)[:, 1].sum().detach())
    np.testing.assert_allclose(positive[0] + negative[0], seed, rtol=1e-12)
    for i in (1, 2):  # the rectifier passes relevance on
        np.testing.assert_allclose(positive[i], float(at_hidden.clamp(min=0).sum()), rtol=1e-12)
        np.testing.assert_allclose(negative[i], float(at_hidden.clamp(max=0).sum()), rtol=1e-12)
    np.testing.assert_allclose(positive[3] + negative[3], float(found.relevance.sum()), rtol=1e-12)


def test_bars_are_the_layers_and_the_books_end_at_nothing() -> None:
    found = explained()
    upper, lower = flow(found).axes
    rows = layer_rows(found)
    np.testing.assert_allclose(bar_widths(upper), [p for _, p, _ in rows] + [n for _, _, n in rows])
    assert labels(upper) == ["output", "1", "0", "input"] and labels(lower) == ["seed", "input 0", "biases"]
    last = lower.patches[-1]
    assert abs(last.get_x() + last.get_width()) < 1e-9
    assert "balanced" in texts(upper.figure) and "target 1" in texts(upper.figure)
    pixels(upper.figure)


def test_every_bar_of_the_books_begins_where_the_last_one_ended() -> None:
    audit = explained().audit
    bars = audit_bars(audit, title="books").axes[0].patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], [audit.seed, -audit.inputs["0"], -audit.bias])
    for one, other in itertools.pairwise(bars[1:]):
        np.testing.assert_allclose(other.get_x(), one.get_x() + one.get_width())
    assert bars[1].get_x() == audit.seed


def test_every_entry_of_the_books_has_a_word_and_a_colour() -> None:
    assert set(ENTRIES) == set(BOOKED) and len(set(ENTRIES.values())) == len(ENTRIES)
    audit = replace(explained().audit, epsilon=0.5, constants=-0.25, excess=0.125, excluded=2.0)
    assert labels(audit_bars(audit).axes[0])[:-1] == ["seed", "input 0", *(word for word, _ in ENTRIES.values())]


def test_books_that_do_not_balance_show_what_is_unexplained() -> None:
    audit = replace(explained().audit, bias=-3.0)
    figure = audit_bars(audit)
    assert "unexplained" in labels(figure.axes[0]) and "NOT BALANCED" in texts(figure)


def test_what_sites_absorbed_goes_to_the_innermost_layer_that_holds_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)).double()
    lrp = rp.LRP(model, rp.Zero())
    found = lrp.explain(torch.randn(1, 4, dtype=torch.float64), target=0, layers=["0", "0.0"])
    assert [site.path for site, _ in found.plan] == ["0.0", "0.1", "1"]
    books = {0: {"bias": 1.0, "in": 9.0}, 1: {"excess": 0.5}, 2: {"bias": -2.0, "epsilon": 0.25}}
    rows = absorbed_rows(found.plan, books, ["0", "0.0"])
    assert rows == {
        "0.0": {"bias": 1.0}, "0": {"excess": 0.5}, "elsewhere": {"bias": -2.0, "epsilon": 0.25}
    }  # fmt: skip
    figure = flow(found, books=books)
    assert sorted(bar_widths(figure.axes[1])) == [-2.0, 0.25, 0.5, 1.0]
    assert {"biases", "stabilisers", "elsewhere", "rules that do not conserve"} <= set(texts(figure).split("\n"))


def test_a_module_that_ran_twice_has_two_rows() -> None:
    shared = nn.Linear(4, 4).double()
    found = rp.LRP(nn.Sequential(shared, nn.ReLU(), shared)).explain(
        torch.ones(1, 4).double(), target=0, layers=["0"]
    )  # fmt: skip
    assert [name for name, _, _ in layer_rows(found)] == ["output", "0 #1", "0 #0", "input"]
    pixels(flow(found))


def test_of_many_layers_some_are_drawn_and_it_is_said() -> None:
    found = explained()
    found.layers = {f"block.{i}": torch.ones(2) * i for i in range(100)}
    figure = flow(found, count=10)
    assert "10 of 100 layers, evenly chosen" in texts(figure)
    assert labels(figure.axes[0])[:2] == ["output", "block.99"] and "block.0" in labels(figure.axes[0])


def test_no_layers_and_nothing_at_all_are_drawn() -> None:
    found = explained()
    found.layers = {}
    assert labels(flow(found).axes[0]) == ["output", "input"]
    zero = rp.LRP(network()).explain(torch.zeros(1, 5).double(), target=torch.zeros(1, 3).double())
    pixels(flow(zero))
    pixels(audit_bars(zero.audit))


def test_flow_refuses_what_does_not_flow() -> None:
    with pytest.raises(InputError, match="gradient method"):
        flow(rp.LRP(network(), rp.GuidedBackprop()).explain(X, target=0))
    with pytest.raises(InputError, match="gradient method"):
        audit_bars(replace(explained().audit, conserving=False))
    found = explained()
    found.layers["1"] = torch.tensor([float("nan")])
    with pytest.raises(InputError, match="relevance at 1 is not finite"):
        flow(found)
    with pytest.raises(InputError, match="drawn of an explanation, got Tensor"):
        flow(torch.ones(3))
    with pytest.raises(InputError, match="give an audit or an explanation, got float"):
        audit_bars(1.0)
    assert labels(audit_bars(explained()).axes[0])[0] == "seed"
    with pytest.raises(InputError, match="count must be at least 1"):
        flow(explained(), count=0)


# -- by head and by expert ---------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Two heads of width three beside each other, then the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.out = nn.Linear(6, 6, bias=False), nn.Linear(6, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.value(x)).sum(1)


def test_heads_by_hand() -> None:
    torch.manual_seed(0)
    model = Attention().double()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    found = rp.LRP(model, rp.Zero()).explain(x, target=1, layers="out:in")
    joined = (model.value(x) * model.out.weight[1]).detach()  # [N, T, H * D], LRP-0
    wanted = torch.stack([joined[..., :3].sum((0, 2)), joined[..., 3:].sum((0, 2))]).numpy()
    np.testing.assert_allclose(head_relevance(found.layers["out:in"], 2), wanted, rtol=1e-10)
    names, values = by_head(found, 2)
    assert names == ["out:in"]
    np.testing.assert_allclose(values, wanted.sum(1)[None], rtol=1e-10)


def test_heads_of_one_layer_are_drawn_by_token_and_of_several_by_layer() -> None:
    relevance = torch.arange(24.0).reshape(1, 4, 6) - 12
    one = heads({"a": relevance}, 2, tokens=["[CLS]", "$x$", "<b>", "end"])
    assert labels(one.axes[0]) == ["head 0", "head 1"] and "<b>" in texts(one)
    wanted = head_relevance(relevance, 2)
    np.testing.assert_array_equal(pictures(one)[0], palette()(wanted / np.abs(wanted).max()))
    several = heads({"a": relevance, "b": -relevance}, 3)
    assert labels(several.axes[0]) == ["a", "b"] and pictures(several)[0].shape == (2, 3, 3)
    assert "sum" not in texts(several)  # the sum over layers is that of nothing
    pixels(several)


class Experts(nn.Module):
    """Three experts, of which the first and the last run."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.75 * self.experts[0](x) + 0.25 * self.experts[2](x)


def test_experts_by_hand() -> None:
    torch.manual_seed(0)
    model, x = Experts().double(), torch.randn(5, 3, dtype=torch.float64)
    found = rp.LRP(model, rp.Zero()).explain(x, target=1, layers="experts.*")
    names, values = by_expert(found)
    assert names == ["experts"]
    wanted = [
        0.75 * float(model.experts[0](x)[:, 1].sum().detach()),
        np.nan,
        0.25 * float(model.experts[2](x)[:, 1].sum().detach()),
    ]
    np.testing.assert_allclose(values[0], wanted, rtol=1e-10)
    figure = experts(found)
    assert (pictures(figure)[0][0, 1] == 225).all() and "–" in texts(figure)  # grey: it did not run


def test_experts_in_one_tensor_and_layers_of_unlike_size() -> None:
    runs = [torch.ones(3), torch.ones(1)]
    names, values = by_expert(
        {"mlp.0": torch.ones(2), "mlp.2": runs, "fused": torch.ones(4, 2) * torch.tensor([[1], [1], [0], [1]])}
    )
    assert names == ["mlp", "fused"]
    np.testing.assert_array_equal(values, [[2, np.nan, 4, np.nan], [2, 2, np.nan, 2]])


def test_heads_and_experts_of_a_stock_model() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from relprop.text.models import import_transformers

    transformers = import_transformers()
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, num_local_experts=6, num_experts_per_tok=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    paths = ["mlp.experts.down_proj", "mlp.experts", "self_attn.o_proj:in"]
    found = rp.LRP(model, rp.AttnLRP()).explain(
        input_ids=torch.arange(7)[None],
        use_cache=False,
        target=lambda output: output.logits[:, -1, 3],
        layers=[f"model.layers.*.{path}" for path in paths],
    )
    kept = {k: v for k, v in found.layers.items() if k.endswith("down_proj")}
    names, values = by_expert(kept)
    assert names == list(kept) and values.shape == (2, 6)
    for name, row in zip(names, values, strict=True):
        passed = found.layers[name.removesuffix(".down_proj")]
        assert abs(np.nansum(row) - float(passed.sum())) < 1e-5 * float(passed.abs().sum())
    joined = {k: v for k, v in found.layers.items() if k.endswith(":in")}
    np.testing.assert_allclose(by_head(joined, 4)[1].sum(1), [float(v.double().sum()) for v in joined.values()])
    assert len(pictures(heads(joined, 4))[0]) == 2 and len(pictures(experts(kept))[0]) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: head_relevance(torch.ones(1, 2, 7), 2), "a width of 7 is not 2 heads"),
        (lambda: head_relevance(torch.ones(2, 2, 2, 2), 2), r"got shape \(2, 2, 2, 2\)"),
        (lambda: by_head({"layer 7": torch.ones(1, 2, 7)}, 2), "layer 7: a width of 7"),
        (lambda: heads({}, 2), "explain with layers="),
        (lambda: heads(torch.ones(3), 2), "got Tensor"),
        (lambda: heads({"a": torch.ones(1, 3, 4)}, 2, tokens=["x"]), "3 columns, but 1 names"),
        (lambda: by_expert({"a": torch.ones(3)}), r"got shape \(3,\)"),
        (lambda: heads({"a": torch.full((1, 3, 4), float("inf"))}, 2), "12 infinite"),
    ],
)
def test_bad_parts(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# -- matrices ----------------------------------------------------------------------------------------------------------


def test_a_matrix_has_its_names_and_numbers() -> None:
    figure = matrix([[1.0, -4.0], [0.0, np.nan]], ["a", "b"], ["x", "y"], title="m", across_label="unit")
    assert {"a", "b", "x", "y", "m", "+1", "-4", "0", "–", "unit   sum -3"} <= set(texts(figure).split("\n"))
    drawn = pictures(figure)[0]
    np.testing.assert_array_equal(drawn[0], palette()(np.array([0.25, -1.0])))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (300, 300)])
def test_odd_matrices_are_drawn(shape: tuple[int, int]) -> None:
    assert len(np.unique(pixels(matrix(np.random.default_rng(0).normal(size=shape))))) > 3


def test_a_matrix_of_zeros_says_so() -> None:
    assert "every value is zero" in texts(matrix(np.zeros((2, 3))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matrix(np.ones(3)), r"got shape \(3,\)"),
        (lambda: matrix(np.ones((0, 3))), r"got shape \(0, 3\)"),
        (lambda: matrix(np.full((2, 2), np.nan)), "all 4 entries of the matrix are missing"),
        (lambda: matrix([[np.inf, 1.0]]), "1 infinite"),
        (lambda: matrix("abc"), "a matrix holds numbers, got str"),
        (lambda: matrix(np.ones((2, 1000))), "2 x 1000 is more than can be read"),
        (lambda: matrix(np.ones((2, 2)), ["a"]), "2 lines, but 1 names"),
    ],
)
def test_bad_matrices(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
