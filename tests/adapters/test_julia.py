"""RelevancePropagation.jl's calls: its own analytic tests, and copies that explain like the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
import relprop.adapters.julia as jl
from tests.adapters.tables import Row, check, rows, set_up
from tests.support.networks import Cubed
from tests.support.state import assert_same_state, snapshot


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return set_up("julia.md")


@pytest.mark.parametrize("row", rows("julia.md", run_theirs=False), ids=str)
def test_a_row_of_the_table(row: Row, names: dict[str, Any]) -> None:
    check(row, names)


def dense(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(weight)).double().requires_grad_(False)
    made.weight.copy_(torch.tensor(weight))
    made.bias.copy_(torch.tensor(bias))
    return made


def close(found: Tensor, *wanted: Any) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-8)


# -- the analytic tests of RelevancePropagation.jl (test_rules.jl) -----------------------------------------------------

W, B = [[3.0, 4.0], [5.0, 6.0]], [7.0, 8.0]
X = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
R = torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64)


def test_zero_rule_on_a_dense_layer() -> None:
    model = nn.Sequential(dense(W, B), nn.ReLU())
    found = jl.analyze(X, jl.LRP(model, [jl.ZeroRule(), jl.PassRule()]), R)
    close(found.val, [17 / 90, 316 / 675])


def test_zero_rule_on_a_scale_layer() -> None:
    model = nn.Sequential(
        jl.Scale(torch.tensor([-2.0, 2.0]).double(), torch.tensor([1.0, -3.0]).double()), nn.Identity()
    )
    close(jl.analyze(X, jl.LRP(model), R).val, [2 / 3, 8 / 3])


def test_zero_rule_on_a_pool() -> None:
    a = torch.tensor([[1.0, 2, 3], [10, 5, 6], [7, 8, 9]]).double()[None, None]
    r = torch.tensor([[1.0, 2], [3, 4]]).double()[None, None] / 30
    wanted = torch.tensor([[0.0, 0, 0], [4, 0, 2], [0, 0, 4]]).double()[None, None] / 30
    torch.testing.assert_close(jl.analyze(a, jl.LRP(nn.Sequential(nn.MaxPool2d(2, stride=1))), r).val, wanted)


@pytest.mark.parametrize("form", ["parallel", "skip"])
def test_parallel_and_skip_connection(form: str) -> None:
    inner = nn.Sequential(dense(W, B), nn.ReLU())
    block = jl.Parallel(torch.add, nn.Identity(), inner) if form == "parallel" else jl.SkipConnection(inner)
    composite = jl.Composite(jl.GlobalTypeMap({nn.Identity: jl.PassRule(), nn.Linear: jl.ZeroRule()}))
    analyzer = jl.LRP(nn.Sequential(block), composite)
    close(jl.analyze(X, analyzer, 0).val, [4 / 19, 8 / 19])
    close(jl.analyze(X, analyzer, 1).val, [5 / 27, 14 / 27])


def test_alpha_beta_and_z_plus() -> None:
    model, x = nn.Sequential(dense([[1.0, -1.0]], [-1.0])), torch.ones(1, 2).double()
    for rule, wanted in (
        (jl.AlphaBetaRule(1.0, 0.0), [-1.0, 0.0]),
        (jl.AlphaBetaRule(2.0, 1.0), [-2.0, 0.5]),
        (jl.ZPlusRule(), [-1.0, 0.0]),
    ):
        close(jl.analyze(x, jl.LRP(model, [rule], normalize_output_relevance=False), 0).val, wanted)


def test_generalized_gamma() -> None:
    """W+ = W + gamma W+, W- = W + gamma W-; b alike: as the Julian test builds them."""
    w, b = torch.tensor([[1.0, -4.0], [2.0, 0.0]]).double(), torch.tensor([-2.0, 3.0]).double()
    a, r = torch.tensor([-1.0, 1.0]).double(), torch.tensor([-0.07, 1.0]).double()
    up, down = w + 0.25 * w.clamp(min=0), w + 0.25 * w.clamp(max=0)
    b_up, b_down = b + 0.25 * b.clamp(min=0), b + 0.25 * b.clamp(max=0)
    plus, minus = a.clamp(min=0), a.clamp(max=0)
    left = r.clamp(min=0) / (up @ plus + down @ minus + b_up)
    right = r.clamp(max=0) / (up @ minus + down @ plus + b_down)
    wanted = plus * (up.T @ left + down.T @ right) + minus * (down.T @ left + up.T @ right)
    model = nn.Sequential(dense(w.tolist(), b.tolist()), nn.LeakyReLU(0.01))
    found = jl.analyze(a[None], jl.LRP(model, [jl.GeneralizedGammaRule(0.25), jl.PassRule()]), r[None])
    close(found.val, wanted.tolist())


@pytest.mark.parametrize("canonized", [False, True])
def test_layer_norm(canonized: bool) -> None:
    """One sample of the Julian test: a = (1, 1; 2, 2) in pairs, normalised over all four, affine over the first."""
    norm = nn.LayerNorm(4, eps=0.0).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-2.0, 2.0, -2.0, 2.0]))
        norm.bias.copy_(torch.tensor([1.0, -3.0, 1.0, -3.0]))
    a = torch.tensor([[1.0, 1.0, 2.0, 2.0]]).double()
    r = torch.tensor([[1 / 3, 2 / 3, 1 / 3, 2 / 3]]).double()
    # by hand: mean 1.5, spread 0.5, normalised (-1, -1, 1, 1), output z = (3, -5, -1, -1)
    n, z = torch.tensor([-1.0, -1.0, 1.0, 1.0]).double(), torch.tensor([3.0, -5.0, -1.0, -1.0]).double()
    middle = n * norm.weight.detach() * r[0] / z
    s = middle / (a[0] - 1.5)
    wanted = a[0] * (s - s.mean())
    model: nn.Module = nn.Sequential(norm)
    rules: list[Any] = [jl.LayerNormRule()]
    if canonized:
        model, rules = jl.canonize(model), [jl.LayerNormRule(), jl.ZeroRule()]
        assert [type(m).__name__ for m in model] == ["LayerNorm", "Scale"]
    torch.testing.assert_close(jl.analyze(a, jl.LRP(model, rules), r).val[0], wanted, rtol=1e-6, atol=1e-9)


# -- composites, by layer index ----------------------------------------------------------------------------------------


def vgg() -> nn.Sequential:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    )
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5))
    return nn.Sequential(features, head).double().eval()


PICTURE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def test_a_list_of_rules_nested_or_flat_is_the_composite() -> None:
    model = vgg()
    flat = [
        jl.FlatRule(), jl.PassRule(), jl.ZPlusRule(), jl.PassRule(), jl.ZeroRule(),
        jl.PassRule(), jl.EpsilonRule(), jl.PassRule(), jl.PassRule(), jl.EpsilonRule(),
    ]  # fmt: skip
    composite = jl.Composite(
        jl.GlobalTypeMap({nn.Conv2d: jl.ZPlusRule(), nn.Linear: jl.EpsilonRule(), nn.MaxPool2d: jl.ZeroRule()}),
        jl.FirstLayerMap(jl.FlatRule()),
    )
    wanted = jl.analyze(PICTURE, jl.LRP(model, composite), 3).val
    for rules in (flat, [flat[:5], flat[5:]], (tuple(flat[:5]), tuple(flat[5:]))):
        torch.testing.assert_close(jl.analyze(PICTURE, jl.LRP(model, rules), 3).val, wanted)
    torch.testing.assert_close(jl.analyze(PICTURE, jl.LRP(jl.flatten_model(model), flat), 3).val, wanted)
    ours = rp.LRP(
        model,
        [
            (rp.First(), rp.Flat(1e-9)),
            (rp.Kind("conv"), rp.ZPlus(1e-9)),
            (rp.Kind("linear"), rp.Epsilon()),
        ],
    ).explain(PICTURE, target=3, seed="one")
    torch.testing.assert_close(ours.relevance, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("primitive", "expected"),
    [
        (jl.GlobalMap(jl.FlatRule()), range(10)),
        (jl.LayerMap(0, jl.FlatRule()), range(5)),
        (jl.LayerMap((0, 2), jl.FlatRule()), [2]),
        (jl.LayerMap((1,), jl.FlatRule()), range(5, 10)),
        (jl.RangeMap(range(1, 2), jl.FlatRule()), range(5, 10)),
        (jl.FirstLayerMap(jl.FlatRule()), [0]),
        (jl.LastLayerMap(jl.FlatRule()), [9]),
        (jl.GlobalTypeMap({jl.CONV_LAYERS: jl.FlatRule()}), [0, 2]),
        (jl.GlobalTypeMap((nn.Linear, jl.FlatRule())), [6, 9]),
        (jl.RangeTypeMap(range(1), {nn.Module: jl.FlatRule()}), range(5)),
        (jl.FirstLayerTypeMap({nn.Linear: jl.FlatRule()}), []),
        (jl.FirstLayerTypeMap({nn.Conv2d: jl.FlatRule()}), [0]),
        (jl.LastLayerTypeMap({nn.Linear: jl.FlatRule()}), [9]),
        (jl.FirstNTypeMap(1, {nn.Conv2d: jl.FlatRule()}), [0, 2]),
    ],
    ids=repr,
)
def test_every_primitive_reaches_its_layers(primitive: Any, expected: Any) -> None:
    rules = [r for part in jl.lrp_rules(vgg(), jl.Composite(primitive)) for r in part]
    assert [i for i, r in enumerate(rules) if str(r) == "FlatRule()"] == list(expected)
    assert {str(r) for r in rules} <= {"FlatRule()", "ZeroRule()"}


def test_the_last_primitive_wins_and_a_rule_first_is_the_default() -> None:
    composite = jl.Composite(jl.GammaRule(), jl.LayerMap(0, jl.FlatRule()), jl.LayerMap((0, 0), jl.ZPlusRule()))
    first, second = jl.lrp_rules(vgg(), composite)
    assert [str(r) for r in first[:2]] == ["ZPlusRule()", "FlatRule()"] and str(second[1]) == "GammaRule(0.25)"


@pytest.mark.parametrize(
    "make",
    [
        lambda: jl.EpsilonGammaBox(-3.0, 3.0),
        jl.EpsilonPlus,
        jl.EpsilonAlpha2Beta1,
        jl.EpsilonPlusFlat,
        jl.EpsilonAlpha2Beta1Flat,
    ],
)
def test_presets_are_relprops_but_for_the_differences_that_are_listed(make: Callable[[], Any]) -> None:
    ours = {
        "GammaRule": rp.Composite(
            [
                (rp.First(), rp.ZBox(-3.0, 3.0, 1e-9)),
                (rp.Kind("conv"), rp.Gamma(0.25, "standard", 1e-9)),
                (rp.Kind("linear"), rp.Epsilon()),
            ]
        ),
        "EpsilonPlus": rp.EpsilonPlus(stabiliser=1e-9),
        "EpsilonAlpha2Beta1": rp.EpsilonAlpha2Beta1(stabiliser=1e-9),
        "EpsilonPlusFlat": rp.EpsilonPlusFlat(stabiliser=1e-9),
        "EpsilonAlpha2Beta1Flat": rp.EpsilonAlpha2Beta1Flat(stabiliser=1e-9),
    }[getattr(make, "__name__", "").replace("<lambda>", "GammaRule")]
    model = vgg()
    found = jl.analyze(PICTURE, jl.LRP(model, make())).val
    wanted = rp.LRP(model, ours).explain(PICTURE, seed="one").relevance
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_rules_of_ones_own_by_overriding_a_step() -> None:
    class MyGamma(rp.StepRule):
        def modify_parameters(self, p: Tensor) -> Tensor:
            return p + 0.25 * p.clamp(min=0)

    class MyFlat(rp.StepRule):
        def modify_input(self, a: Tensor) -> Tensor:
            return torch.ones_like(a)

        def modify_weight(self, w: Tensor) -> Tensor:
            return torch.ones_like(w)

        def modify_bias(self, b: Tensor) -> Tensor | None:
            return None

    class MyEpsilon(rp.StepRule):
        def modify_denominator(self, z: Tensor) -> Tensor:
            return z + torch.where(z < 0, -0.1, 0.1)

    class MyLayer(rp.StepRule):
        def modify_layer(self, op: Any) -> tuple[Tensor, Tensor | None]:
            return op.weight.abs(), None

    class OnlyDense(rp.StepRule):
        def is_compatible(self, op: Any) -> bool:
            return op.kind == "linear"

    model = vgg()
    rest = [jl.PassRule()] + [jl.ZeroRule()] * 8

    def run(rule: Any) -> Tensor:
        return jl.analyze(PICTURE, jl.LRP(model, [rule, *rest]), 0).val

    for mine, theirs in (
        (MyGamma(), jl.GammaRule()),
        (MyFlat(), jl.FlatRule()),
        (MyEpsilon(), jl.EpsilonRule(0.1)),
    ):
        torch.testing.assert_close(run(mine), run(theirs), rtol=1e-6, atol=1e-10)
    conv, a = model[0][0], PICTURE
    r = jl.analyze(a, jl.LRP(model, [MyLayer(), *rest]), 0, layerwise_relevances=True)
    s = r.extras["layerwise_relevances"]["0.0"] / (nn.functional.conv2d(a, conv.weight.abs(), padding=1))
    wanted = a * nn.functional.conv_transpose2d(s, conv.weight.abs(), padding=1)
    torch.testing.assert_close(r.val, wanted.detach(), rtol=1e-4, atol=1e-8)
    with pytest.raises(rp.RelpropError, match="not compatible with a map of kind 'conv'"):
        run(OnlyDense())
    with pytest.raises(rp.RelpropError, match=r"FlatRule\(\) is not compatible with layer \(0, 1\)"):
        jl.LRP(model, [jl.FlatRule(), jl.FlatRule(), *[jl.ZeroRule()] * 8])


# -- preparation returns copies ----------------------------------------------------------------------------------------


def normalised(transposed: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(4, 6, 3, groups=2) if transposed else nn.Conv2d(4, 6, 3, groups=2, bias=False)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        jl.Parallel(torch.add, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.Identity()),
        nn.Sequential(conv, nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Sequential(nn.Linear(24, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3)),
        nn.Softmax(-1),
    ).double()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.2)
                nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("given", [(), (PICTURE,)], ids=["by structure", "by a forward"])
@pytest.mark.parametrize("preset", [rp.UniformEpsilon(), rp.EpsilonPlusFlat(), rp.EpsilonGammaBox(-3.0, 3.0)], ids=repr)
def test_the_canonized_copy_explains_like_the_model(transposed: bool, given: Any, preset: Any) -> None:
    model = normalised(transposed)
    before = snapshot(model)
    copy = jl.canonize(model, *given)
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in copy.modules())
    torch.testing.assert_close(copy(PICTURE), model(PICTURE))
    wanted, found = (rp.LRP(m, preset).explain(PICTURE, target=1).relevance for m in (model, copy))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-10)
    assert_same_state(before, snapshot(model))


def test_a_forward_shows_pairs_that_no_sequential_holds() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)).relu().mean((2, 3))

    model = Block().double().eval()
    model.norm.running_var.uniform_(0.5, 2)
    assert isinstance(jl.canonize(model).norm, nn.BatchNorm2d)
    copy = jl.canonize(model, PICTURE)
    assert isinstance(copy.norm, nn.Identity) and isinstance(model.norm, nn.BatchNorm2d)
    wanted, found = (rp.LRP(m, rp.EpsilonPlus()).explain(PICTURE, target=1).relevance for m in (model, copy))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-10)
    with pytest.raises(rp.RelpropError, match="eval"):
        jl.canonize(normalised().train())


def test_flattening_and_stripping_return_copies() -> None:
    model = normalised()
    before = snapshot(model)
    flat, bare = jl.flatten_model(model), jl.strip_softmax(model)
    assert not any(type(m) is nn.Sequential for m in flat) and isinstance(flat[-1], nn.Softmax)
    assert len(bare) == len(model) - 1
    torch.testing.assert_close(bare(PICTURE).softmax(-1), model(PICTURE))
    torch.testing.assert_close(flat(PICTURE), model(PICTURE))
    wanted = rp.LRP(model, rp.EpsilonPlus()).explain(PICTURE, target=1).relevance
    for copy in (flat, bare):
        found = rp.LRP(copy, rp.EpsilonPlus()).explain(PICTURE, target=1).relevance
        torch.testing.assert_close(found, wanted)
    assert_same_state(before, snapshot(model))
    assert len(jl.strip_softmax(vgg())[1]) == 5


# -- checks and messages -----------------------------------------------------------------------------------------------


class Doubling(nn.Module):
    """A layer of one's own that needs no registration, and one that does."""

    def __init__(self, custom: bool) -> None:
        super().__init__()
        self.custom = custom

    def forward(self, x: Tensor) -> Tensor:
        return Cubed.apply(x) if self.custom else 2 * x


def test_the_model_check_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    fine, lacking = (nn.Sequential(nn.Linear(4, 3), Doubling(custom)).double() for custom in (False, True))
    x = torch.randn(2, 4).double()
    assert jl.check_lrp_compat(fine, x) and capsys.readouterr().out == ""
    assert not jl.check_lrp_compat(lacking, x)
    said = capsys.readouterr().out
    assert "LRP model check" in said and "0 Linear   => supported," in said
    assert "1 Doubling => no rule for CubedBackward," in said
    with pytest.raises(rp.UnknownOperationError, match="register_function"):
        jl.analyze(x, jl.LRP(lacking), 0)
    assert "no rule for CubedBackward" in capsys.readouterr().out
    with pytest.raises(rp.UnknownOperationError):
        jl.analyze(x, jl.LRP(lacking, verbose=False), 0)
    assert capsys.readouterr().out == ""
    assert jl.analyze(x, jl.LRP(lacking, skip_checks=True), 0).val.shape == x.shape


def test_a_registered_layer_passes_the_check() -> None:
    class Mine(Doubling):
        """A class of its own, so that registering it touches no other test."""

    model, x = nn.Sequential(nn.Linear(4, 3), Mine(True)).double(), torch.randn(2, 4).double()
    rp.register_module(Mine, "identity")
    try:
        assert jl.check_lrp_compat(model, x)
        passed = jl.analyze(x, jl.LRP(model), 0).val
        torch.testing.assert_close(passed, jl.analyze(x, jl.LRP(model[:1]), 0).val)
    finally:
        from relprop.record.nodes import NODES

        NODES.forget(Mine)


def test_indices_and_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), jl.Parallel(torch.add, nn.Linear(2, 2), vgg()[1][1:3]), nn.Linear(2, 2))
    assert jl.layer_indices(model) == [(0,), [(1, 0), [(1, 1, 0), (1, 1, 1)]], (2,)]
    jl.show_layer_indices(model)
    said = capsys.readouterr().out
    assert "(1, 1, 0)  1.layers.1.1  Linear" in said and said.startswith("0")
    assert "0 Linear            => FlatRule()," in str(jl.LRP(model, jl.Composite(jl.FirstLayerMap(jl.FlatRule()))))
    assert "GlobalTypeMap(Linear => FlatRule())" in repr(jl.Composite(jl.GlobalTypeMap({nn.Linear: jl.FlatRule()})))


class Even(rp.StepRule):
    """The same to every entry of a window: its input counts as one."""

    def modify_input(self, a: Tensor) -> Tensor:
        return torch.ones_like(a)


class Doubled(rp.StepRule):
    def modify_denominator(self, z: Tensor) -> Tensor:
        return 2 * z


def test_steps_of_a_rule_on_pools_by_hand() -> None:
    model = nn.Sequential(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(2, 1, bias=False)).double()
    nn.init.ones_(model[2].weight)
    x = torch.tensor([[[1.0, 3.0, 0.0, 4.0]]]).double()  # pooled 2 and 2, which is their relevance
    given = {"even": [[[1.0, 1.0, 1.0, 1.0]]], "doubled": [[[0.25, 0.75, 0.0, 1.0]]]}
    for name, rule in (("even", Even(0.0)), ("doubled", Doubled())):
        found = rp.LRP(model, [(rp.Kind("pool"), rule), (rp.Kind("linear"), rp.Zero())]).explain(x)
        wanted = torch.tensor(given[name]).double()
        torch.testing.assert_close(found.relevance, wanted)
        analyzer = jl.LRP(model, [rule, jl.PassRule(), jl.ZeroRule()], normalize_output_relevance=False)
        torch.testing.assert_close(jl.analyze(x, analyzer).val, wanted, rtol=1e-8, atol=1e-8)
    assert jl.is_compatible(Even(), nn.MaxPool2d(2)) and not jl.is_compatible(Even(), nn.ReLU())


def test_an_analyzer_may_be_called_and_everything_prints() -> None:
    analyzer = jl.LRP(vgg(), jl.Composite(jl.LayerMap((0, 0), jl.EpsilonRule())))
    called = analyzer(PICTURE, 2, layerwise_relevances=True)
    torch.testing.assert_close(called.val, jl.analyze(PICTURE, analyzer, 2).val)
    assert repr(called).startswith("Analysis(LRP: attribution of shape (2, ") and called.extras is not None
    assert repr(analyzer) == str(analyzer) and "EpsilonRule(1e-06)" in repr(analyzer)
    assert repr(jl.LayerMap(3, jl.EpsilonRule())) == "LayerMap(index=3, given=EpsilonRule(1e-06))"


@pytest.mark.parametrize("normalise", [True, False])
def test_concepts_are_masks_at_a_layer(normalise: bool) -> None:
    """By hand: relevance at the layer, all but one channel zeroed, goes on from there; first features, then samples."""
    model = nn.Sequential(*vgg()[0], *vgg()[1])
    composite = jl.EpsilonPlusFlat()
    lrp = jl.LRP(model, composite, normalize_output_relevance=normalise)
    at = jl.analyze(PICTURE, lrp, 2, layerwise_relevances=True)
    assert at.extras is not None
    full = at.extras["layerwise_relevances"]["2"]
    below = rp.LRP(model[:3], lrp.engine.composite)

    def masked(channels: Sequence[int]) -> Tensor:
        kept = torch.zeros_like(full)
        for sample, channel in enumerate(channels):
            kept[sample, channel] = full[sample, channel]
        return below.explain(PICTURE, target=kept).relevance

    found = jl.analyze(PICTURE, jl.CRP(lrp, 2, jl.IndexedFeatures(0, 3)), 2)
    torch.testing.assert_close(found.val, torch.cat([masked([0, 0]), masked([3, 3])]), rtol=1e-9, atol=1e-12)
    order = full.sum((2, 3)).argsort(1, descending=True)
    best = jl.CRP(lrp, "2", jl.TopNFeatures(2))(PICTURE, 2)
    wanted = torch.cat([masked(order[:, 0].tolist()), masked(order[:, 1].tolist())])
    torch.testing.assert_close(best.val, wanted, rtol=1e-9, atol=1e-12)
    assert best.analyzer == "CRP" and best.val.shape == (4, 3, 8, 8)


def test_normalised_output_relevance_is_an_option() -> None:
    model = vgg()
    one, value = (jl.analyze(PICTURE, jl.LRP(model, normalize_output_relevance=n), 2) for n in (True, False))
    torch.testing.assert_close(one.val * one.output[:, 2].reshape(-1, 1, 1, 1), value.val, rtol=1e-6, atol=1e-12)
    assert jl.analyze(PICTURE, jl.LRP(model)).output_selection.tolist() == one.output.argmax(1).tolist()
    assert list(jl.analyze(PICTURE, jl.LRP(model), 2, layerwise_relevances=True).extras["layerwise_relevances"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jl.LRP(vgg(), [jl.ZeroRule()] * 3), "3 rules for 10 layers.*0.0 Conv2d"),
        (lambda: jl.LRP(vgg(), [[jl.ZeroRule()] * 4, [jl.ZeroRule()] * 6]), "4 entries for the 5 layers"),
        (lambda: jl.LRP(vgg(), [[jl.ZeroRule()] * 9, jl.ZeroRule()]), "9 entries for the 5 layers"),
        (lambda: jl.LRP(vgg(), [[jl.ZeroRule()] * 5, *[jl.ZeroRule()] * 5]), "6 entries for the 2 layers"),
        (lambda: jl.LRP(nn.Sequential(vgg(), vgg()[1]), [*[jl.ZeroRule()] * 14, [jl.ZeroRule()]]), "15 entries for"),
        (lambda: jl.LRP(vgg(), [jl.ZeroRule] * 10), r"is no rule; write ZeroRule\(\)"),
        (lambda: jl.Composite(3), "made of primitives"),
        (
            lambda: jl.LRP(vgg(), jl.Composite(jl.LayerMap((0, 9), jl.ZeroRule()))),
            r"index \(0, 9\): there are \(0, 0\)",
        ),
        (lambda: jl.CRP(jl.LRP(vgg()), 9, jl.TopNFeatures(1)), "no layer has the index 9: there are"),
        (lambda: jl.CRP(jl.LRP(vgg()), "0.99", jl.TopNFeatures(1)), "no module named '0.99'"),
        (lambda: jl.CRP(vgg(), 0, jl.TopNFeatures(1)), "takes an LRP analyzer"),
        (lambda: jl.TopNFeatures(0), "positive integer"),
        (lambda: jl.CRP(jl.LRP(vgg()), (0, 0), jl.IndexedFeatures(99))(PICTURE), "99 is out of range"),
        (lambda: jl.LayerMap(jl.ZeroRule(), 3), "takes an index, as 3 or"),
        (lambda: jl.RangeMap(slice(0, 2), jl.ZeroRule()), r"is written range\(0, 2\)"),
        (lambda: jl.RangeTypeMap(slice(0, 2), {nn.Linear: jl.ZeroRule()}), r"is written range\(0, 2\)"),
        (lambda: jl.GlobalTypeMap({"Conv": jl.ZeroRule()}), "takes classes of layers"),
        (lambda: jl.AlphaBetaRule(2.0, 0.5), "alpha - beta must be 1"),
        (lambda: jl.GammaRule(-1.0), "gamma must be a finite number >= 0"),
        (lambda: jl.analyze(PICTURE, jl.LRP(vgg()), 9), "out of range"),
    ],
)
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises(rp.RelpropError, match=message):
        call()
