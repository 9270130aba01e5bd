"""BiLRP: pairs of parts, against Hessians and against loops written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import PairRelevance, bilrp
from relprop.concepts.similarity import pooled
from tests.support.compare import assert_close
from tests.support.networks import residual_net

F64 = torch.float64


def relu_net(bias: bool = False) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 9, bias=bias), nn.ReLU(), nn.Linear(9, 7, bias=bias)).double()


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(1, 6, dtype=F64), torch.randn(1, 6, dtype=F64)


def test_two_features_by_hand() -> None:
    """phi = W x: R_ij = sum_m w_mi x_i w_mj x'_j."""
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
    found = bilrp(rp.LRP(model, rp.Zero()), torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[1.0, 2.0]]).double())
    assert_close(found.matrix, torch.tensor([[3.0, 12.0], [2.0, 10.0]], dtype=F64), 1e-12)
    assert found.similarity == pytest.approx(27) and abs(found.absorbed) < 1e-12
    assert found.strongest(2) == [((0,), (1,), 12.0), ((1,), (1,), 10.0)]


def test_lrp_0_is_the_hessian_times_both_inputs() -> None:
    """Of a bias-free ReLU network: R_ij = x_i x'_j d^2 s / dx_i dx'_j. [Eberle et al. 2020, sec. 3]"""
    model, (x, y) = relu_net(), pair()
    found = bilrp(rp.LRP(model, rp.Zero()), x, y, batch_size=3)
    hessian = torch.autograd.functional.hessian(lambda a, b: (model(a) * model(b)).sum(), (x, y))[0][1][0, :, 0]
    assert_close(found.matrix, hessian * x[0, :, None] * y[0], 1e-10)
    assert found.matrix.sum().item() == pytest.approx(found.similarity, abs=1e-10)


@pytest.mark.parametrize("rule", [rp.ZPlus(epsilon=0.0), rp.Epsilon(0.25)], ids=str)
def test_rules_against_the_sum_written_out(rule: Any) -> None:
    """One entry of the embedding after the other, each layer as the rule's formula has it."""
    model, (x, y) = relu_net(bias=True), pair()
    w, b = [m.weight.detach() for m in (model[0], model[2])], [m.bias.detach() for m in (model[0], model[2])]

    def down(r: Tensor, a: Tensor, w: Tensor, b: Tensor) -> Tensor:
        share = a * w  # [out, in]
        if isinstance(rule, rp.ZPlus):
            share, b = share.clamp(min=0), b.clamp(min=0)
        z = share.sum(1) + b
        if isinstance(rule, rp.Epsilon):
            z = z + 0.25 * torch.where(z < 0, -1.0, 1.0)
        return (share / torch.where(z == 0, 1.0, z)[:, None] * r[:, None]).sum(0)

    def relevance(x: Tensor, m: int) -> Tensor:
        hidden = (x @ w[0].T + b[0]).relu()
        phi = hidden @ w[1].T + b[1]
        top = torch.zeros_like(phi)
        top[m] = phi[m]
        return down(down(top, hidden, w[1], b[1]), x, w[0], b[0])

    expected = torch.zeros(6, 6, dtype=F64)
    for m in range(7):
        expected += relevance(x[0], m)[:, None] * relevance(y[0], m)
    found = bilrp(rp.LRP(model, rule), x, y)
    assert_close(found.matrix, expected, 1e-9)
    assert found.absorbed == pytest.approx(found.similarity - float(expected.sum()), abs=1e-9)
    assert_close(found.first, expected.sum(1), 1e-9)
    assert_close(found.second, expected.sum(0), 1e-9)


def test_cosine_scales_by_both_norms() -> None:
    model, (x, y) = relu_net(), pair()
    lrp = rp.LRP(model, rp.EpsilonPlus())
    dot, cosine = bilrp(lrp, x, y), bilrp(lrp, x, y, similarity="cosine")
    a, b = model(x)[0], model(y)[0]
    assert cosine.similarity == pytest.approx(torch.cosine_similarity(a, b, 0).item(), abs=1e-12)
    assert_close(cosine.matrix, dot.matrix / (a.norm() * b.norm()).detach(), 1e-10)


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_batches_are_single_passes(batch: int) -> None:
    x, y = torch.randn(1, 3, 8, 8, dtype=F64), torch.randn(1, 3, 8, 8, dtype=F64)
    lrp = rp.LRP(residual_net(), rp.EpsilonPlus())
    found = bilrp(lrp, x, y, batch_size=batch, pool=3)
    maps = [lrp.explain(v, targets=list(range(5))) for v in (x, y)]
    expected = sum(pooled(a.relevance, 3).flatten()[:, None] * pooled(b.relevance, 3).flatten() for a, b in zip(*maps))
    assert_close(found.matrix, expected, 1e-9)
    assert found.grids == ((3, 3), (3, 3))


def test_patches_are_sums() -> None:
    r = torch.randn(2, 3, 7, 10, dtype=F64)
    found = pooled(r, 4)
    assert found.shape == (2, 2, 3)
    assert_close(found[1, 1, 2], r[1, :, 4:, 8:].sum(), 1e-12)
    assert pooled(torch.zeros(1, 3, 224, 200), None).shape == (1, 14, 13)
    assert_close(pooled(r[:, 0], None), r[:, 0].sum(-1), 1e-12)


PRESETS = [rp.Zero(), rp.EpsilonPlus(), rp.Gamma(0.5), rp.EpsilonAlpha2Beta1(), rp.EpsilonPlusFlat()]


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_by_parts_is_by_entries(preset: Any) -> None:
    """Relevance is linear in its seed: its derivative by the seed is what all single explanations give."""
    x, y = torch.randn(1, 3, 8, 8, dtype=F64), torch.randn(1, 3, 8, 8, dtype=F64)
    lrp = rp.LRP(residual_net(), preset)
    parts, entries = (bilrp(lrp, x, y, pool=4, method=m) for m in ("parts", "entries"))  # type: ignore[arg-type]
    assert_close(parts.matrix, entries.matrix, 1e-9)
    assert parts.grids == entries.grids and not parts.matrix.requires_grad


def test_the_shorter_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 64 entries on, and where the parts are fewer than half of them."""
    asked: list[bool] = []
    explain = rp.LRP.explain
    monkeypatch.setattr(
        rp.LRP, "explain", lambda self, *a, **k: asked.append(bool(k.get("create_graph"))) or explain(self, *a, **k)
    )
    torch.manual_seed(0)
    for size, features, ways in [(64, 6, [True, True]), (63, 6, [False] * 4), (64, 40, [True, False, False] * 2)]:
        model = nn.Sequential(nn.Linear(features, size), nn.ReLU()).double()
        x, y = torch.randn(1, features, dtype=F64), torch.randn(1, features, dtype=F64)
        asked.clear()
        found = bilrp(rp.LRP(model, rp.Zero()), x, y)
        assert asked == ways
        assert_close(found.matrix, bilrp(rp.LRP(model, rp.Zero()), x, y, method="entries").matrix, 1e-9)
    frozen: Any = {"pool": lambda r: r.detach()}
    found = bilrp(rp.LRP(nn.Linear(6, 64).double(), rp.Zero()), *pair(), **frozen)  # falls back
    assert found.matrix.shape == (6, 6)
    with pytest.raises(rp.InputError, match="a pool that can be differentiated"):
        bilrp(rp.LRP(nn.Linear(6, 64).double(), rp.Zero()), *pair(), method="parts", **frozen)


# -- projection --------------------------------------------------------------------------------------------------------


def test_a_full_projection_is_exact() -> None:
    model, (x, y) = relu_net(), pair()
    lrp = rp.LRP(model, rp.EpsilonPlus())
    exact, found = bilrp(lrp, x, y), bilrp(lrp, x, y, project=7)
    assert_close(found.matrix, exact.matrix, 1e-9)
    assert found.error is not None and found.error.abs().max() < 1e-6 * exact.matrix.abs().max()


def test_a_projection_is_unbiased_and_its_error_is_right() -> None:
    """Over many draws: the mean is the exact matrix, and the mean squared error is the mean of the stated one."""
    model, (x, y) = relu_net(), pair()
    lrp, generator = rp.LRP(model, rp.Zero()), torch.Generator().manual_seed(1)
    exact = bilrp(lrp, x, y).matrix
    draws = [bilrp(lrp, x, y, project=3, generator=generator) for _ in range(300)]
    found = torch.stack([d.matrix for d in draws])
    spread = found.std(0) / 300**0.5
    assert ((found.mean(0) - exact).abs() / spread).max() < 4.5  # 36 entries
    stated = torch.stack([d.error for d in draws]).square().mean(0)  # type: ignore[misc]
    measured = (found - exact).square().mean(0)
    assert (stated / measured).mean().item() == pytest.approx(1, abs=0.1)
    assert draws[0].similarity == pytest.approx((model(x) * model(y)).sum().item())


def test_directions_of_ones_own() -> None:
    model, (x, y) = relu_net(), pair()
    p = torch.randn(2, 7, dtype=F64)
    found = bilrp(rp.LRP(model, rp.Zero()), x, y, project=p)
    projected = nn.Sequential(model, nn.Linear(7, 2, bias=False)).double()
    with torch.no_grad():
        projected[1].weight.copy_(p)
    assert_close(found.matrix, bilrp(rp.LRP(projected, rp.Zero()), x, y).matrix, 1e-9)
    assert found.error is None


# -- inputs ------------------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.layer = nn.Linear(6, 4)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        states = torch.relu(self.layer(self.table(ids)))
        return {"states": states if mask is None else states * mask.unsqueeze(-1)}


def test_texts_as_keywords_and_an_embedding_of_the_output() -> None:
    torch.manual_seed(0)
    model = Tokens().double()
    lrp = rp.LRP(model, rp.Zero())
    a, b = torch.tensor([[1, 4, 2]]), torch.tensor([[3, 4, 9, 10, 0]])
    found = bilrp(lrp, {"ids": a}, {"ids": b}, embed=lambda out: out["states"].mean(1))
    assert found.matrix.shape == (3, 5) and found.grids == ((3,), (5,))
    states = [torch.relu(model.table(i) @ model.layer.weight.T + model.layer.bias)[0] for i in (a, b)]
    shares = [
        ((s > 0)[:, :, None] * model.layer.weight * model.table(i)[0][:, None]).sum(-1) / len(s)
        for s, i in zip(states, (a, b))
    ]
    assert_close(found.matrix, (shares[0] @ shares[1].T).detach(), 1e-9)


def test_several_inputs_want_a_name() -> None:
    model = Tokens().double()
    a, mask = torch.tensor([[1, 4, 2]]), torch.rand(1, 3, dtype=F64)
    lrp, embed = rp.LRP(model, rp.Zero()), lambda out: out["states"].mean(1)
    with pytest.raises(rp.InputError, match="name one with wrt=, of 'mask', 'ids'"):
        bilrp(lrp, {"ids": a, "mask": mask}, {"ids": a, "mask": mask}, embed=embed)
    assert bilrp(lrp, {"ids": a, "mask": mask}, {"ids": a, "mask": mask}, embed=embed, wrt="ids").matrix.shape == (3, 3)


def test_two_towers() -> None:
    image, text = nn.Linear(5, 3, bias=False).double(), nn.Linear(4, 3, bias=False).double()
    x, y = torch.randn(1, 5, dtype=F64), torch.randn(1, 4, dtype=F64)
    found = bilrp((rp.LRP(image, rp.Zero()), rp.LRP(text, rp.Zero())), x, y)
    assert_close(found.matrix, (image.weight.T @ text.weight * x[0][:, None] * y[0]).detach(), 1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "l2"}, 'similarity must be "dot"'),
        ({"project": 8}, "project must be 2 to 7"),
        ({"project": torch.randn(2, 3)}, r"directions \[k, 7\]"),
        ({"pool": 4}, "patches are for images"),
        ({"pool": lambda r: r[:1].repeat(9, 1)}, "pool must keep the samples"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"method": "rows"}, 'method must be "auto"'),
        ({"embed": "features"}, "embed must be a function .* got 'features'"),
        ({"embed": lambda out: out[0]}, r"embedded as \[1, D\]"),
        ({"embed": lambda out: out * 0, "similarity": "cosine"}, "no cosine"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.InputError, match=message):
        bilrp(rp.LRP(relu_net(), rp.Zero()), *pair(), **options)


def test_more_bad_input() -> None:
    lrp, (x, y) = rp.LRP(relu_net(), rp.Zero()), pair()
    with pytest.raises(rp.InputError, match="must hold one sample"):
        bilrp(lrp, x.repeat(2, 1), y)
    other = rp.LRP(nn.Linear(6, 3).double(), rp.Zero())
    with pytest.raises(rp.InputError, match="of one size, got 7 and 3"):
        bilrp((lrp, other), x, y)
    with pytest.raises(rp.InputError, match="count must be at least 1"):
        bilrp(lrp, x, y).strongest(0)


# -- texts, pictures ---------------------------------------------------------------------------------------------------


def test_words_of_two_texts(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="sentence encoders come from transformers")
    from relprop.concepts import bilrp_texts
    from tests.text import tiny

    model, tokenizer = tiny.bert().double(), tiny.wordpiece()
    a, b = "A man is eating bread.", "Someone eats food and drinks cold water"
    by_token = bilrp_texts(model, tokenizer, a, b, by="tokens", method="parts")
    found = bilrp_texts(model, tokenizer, a, b)
    states = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(0) for t in (a, b)]
    assert found.similarity == pytest.approx(torch.cosine_similarity(*states, dim=0).item(), abs=1e-9)
    assert found.labels is not None and found.labels[0] == ["[CLS]", *a[:-1].split(), ".", "[SEP]"]
    assert found.matrix.shape == tuple(map(len, found.labels))
    assert found.absorbed == pytest.approx(by_token.absorbed, abs=1e-9)
    lrp = rp.LRP(model, rp.AttnLRP())
    ids = [tokenizer(t, return_tensors="pt")["input_ids"] for t in (a, b)]
    size, total = states[0].shape[0], 0
    for m in range(size):  # one entry after the other
        one, two = (lrp.explain(i, target=lambda o, m=m: o.last_hidden_state.mean(1)[:, m]).per_token()[0] for i in ids)
        total = total + one[:, None] * two
    assert_close(by_token.matrix, total / (states[0].norm() * states[1].norm()).detach(), 1e-8)
    found.save(tmp_path / "words.png")
    assert (tmp_path / "words.png").stat().st_size > 5000
    with pytest.raises(rp.InputError, match='by must be "words"'):
        bilrp_texts(model, tokenizer, a, b, by="letters")  # type: ignore[arg-type]


def test_links_of_photographs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from relprop.render import links

    matrix = torch.zeros(4, 6)
    matrix[1, 5], matrix[2, 0] = 2.0, -1.0
    found = PairRelevance(matrix, 1.0, ((2, 2), (2, 3)))
    photos = torch.rand(16, 16, 3).numpy(), torch.rand(12, 18, 3).numpy()
    figure = found.picture(*photos)
    (lines,) = figure.axes[0].collections[:1]
    ends = [s.tolist() for s in lines.get_segments()]
    # cell (1, 0) of 2 x 2 on 16 x 16 to (0, 0) of 2 x 3 on 12 x 18, right of 16 + 4 pixels; the strongest comes last
    assert ends == [[[4, 12], [20 + 3, 3]], [[12, 4], [20 + 15, 9]]]
    red, blue = lines.get_colors()[1], lines.get_colors()[0]
    assert red[0] > red[2] and blue[2] > blue[0] and red[3] > blue[3]
    assert "all links" not in figure.axes[0].get_xlabel() and "100%" in figure.axes[0].get_xlabel()
    found.save(tmp_path / "links.svg", *photos)
    with pytest.raises(rp.InputError, match="give both photographs"):
        found.picture()
    with pytest.raises(rp.InputError, match="does not hold the 4 parts"):
        links.photos(matrix, ((3, 3), (2, 3)), *photos)
    with pytest.raises(rp.InputError, match="there are 4 and 2 words"):
        links.words(matrix, "abcd", "ab")
    assert "every value is zero" in links.words(torch.zeros(1, 1), "a", "b").axes[0].texts[-1].get_text()
