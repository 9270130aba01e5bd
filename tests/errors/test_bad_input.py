"""Bad input: the error names what was seen and what to do, and the model is as before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import relprop as rp
from tests.support.networks import Cubed, Of, residual_net, unet
from tests.support.state import assert_same_state, snapshot


@contextmanager
def refused(model: nn.Module, error: type[Exception], *patterns: str) -> Iterator[None]:
    """The block raises this error, its message matches every pattern, and nothing of the model changed."""
    assert issubclass(error, rp.RelpropError)
    before = snapshot(model)
    with pytest.raises(error, match=patterns[0]) as caught:
        yield
    for pattern in patterns[1:]:
        assert caught.match(pattern)
    assert_same_state(before, snapshot(model))


def picture() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def stack(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 3)).double()


X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)


class Body(nn.Module):
    """Linear, some function, linear."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


# -- the model's mode --


def test_dropout_in_training_mode() -> None:
    model = stack(nn.Dropout(0.5)).train()
    with refused(model, rp.ModelStateError, "[Dd]ropout", r"0\.5", r"eval\(\)"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)


def test_functional_dropout_in_training_mode() -> None:
    model = Body(lambda h: functional.dropout(h, 0.25, training=True))
    with refused(model, rp.ModelStateError, "[Dd]ropout", r"0\.25"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)


def test_training_mode_alone_is_no_error() -> None:
    model = stack(nn.Dropout(0.0), nn.ReLU()).train()
    found = rp.LRP(model, rp.Zero()).explain(X, target=0)
    assert model.training and torch.isfinite(found.relevance).all()


@pytest.mark.parametrize("how", ["training", "no running statistics"])
def test_batch_statistics(how: str) -> None:
    norm = nn.BatchNorm1d(6, track_running_stats=how == "training")
    model = stack(norm).train(how == "training")
    with refused(model, rp.ModelStateError, "[Bb]atch ?[Nn]orm", "statistics", r"eval\(\)"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript(how: str, part: bool) -> None:
    inner = stack(nn.ReLU()).eval()
    scripted = torch.jit.script(inner) if how == "script" else torch.jit.trace(inner, X)
    model = nn.Sequential(scripted, nn.Linear(3, 2).double()) if part else scripted
    before = [p.clone() for p in model.parameters()]
    error = rp.UnknownOperationError if part else rp.ModelStateError
    with pytest.raises(error, match="scripted" if part else "TorchScript"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


# -- operations without a rule --


UNKNOWN = {
    "a custom autograd.Function": (Cubed.apply, "Cubed"),
    "a determinant": (lambda x: torch.linalg.det(x[:, :4].view(-1, 2, 2))[:, None] + x, "linalg_det"),
    "a matrix exponential": (
        lambda x: torch.matrix_exp(x[:, :, None] * x[:, None])[:, 0],
        "(MatrixExp|matrix_exp)",
    ),
    "a function applied to a slice in place": (lambda x: (x[:, :2].sigmoid_(), x)[1], "(CopySlices|sigmoid)"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_operation_without_a_rule(name: str) -> None:
    function, pattern = UNKNOWN[name]
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(Of(function)), nn.Linear(6, 3)).double()
    if name == "a function applied to a slice in place":
        # it may be served; what it must not do is pass in silence as a plain gradient
        try:
            found = rp.LRP(model, rp.Zero()).explain(X, target=0, seed="one")
        except rp.UnknownOperationError:
            pass
        else:
            reference = nn.Sequential(model[0], Of(lambda x: torch.cat([x[:, :2].sigmoid(), x[:, 2:]], 1)), model[2])
            expected = rp.LRP(reference, rp.Zero()).explain(X, target=0, seed="one").relevance
            assert torch.allclose(found.relevance, expected)
            return
    with refused(model, rp.UnknownOperationError, pattern, r"1\.0", r"relprop\.(op|register_function)\(", "unknown="):
        rp.LRP(model, rp.Zero()).explain(X, target=0)


def test_unknown_operation_may_pass_by_request() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Of(Cubed.apply), nn.Linear(6, 3)).double()
    found = rp.LRP(model, rp.Zero()).explain(X, target=0, unknown="gradient")
    assert torch.isfinite(found.relevance).all()
    assert "Cubed" in str(found.audit), "the audit says what was let pass"


def test_unknown_takes_two_words() -> None:
    model = stack()
    with refused(model, rp.InputError, "unknown", "silent", "error", "gradient"):
        rp.LRP(model, rp.Zero()).explain(X, target=0, unknown="silent")


# -- no path --

CUTS = {
    "detach": lambda h: h.detach(),
    "no_grad": lambda h: _without_grad(h),
    "data": lambda h: h.data,
    "rebuilt": lambda h: torch.tensor(h.tolist(), dtype=h.dtype),
    "rounded to integers": lambda h: h.long().double(),
}


def _without_grad(h: Tensor) -> Tensor:
    with torch.no_grad():
        return h * 2


@pytest.mark.parametrize("name", CUTS)
def test_no_path(name: str) -> None:
    model = Body(CUTS[name])
    with refused(model, rp.NoPathError, "(reach|path)"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)


def test_cut_is_named() -> None:
    model = Body(lambda h: h.detach())
    with refused(model, rp.NoPathError, "detach"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)


@pytest.mark.parametrize("name", ["detach", "no_grad", "data"])
def test_cut_beside_other_paths_is_listed(name: str) -> None:
    model = Body(lambda h: h + CUTS[name](h))
    lrp = rp.LRP(model, rp.Zero())
    found = lrp.explain(X, target=0)
    assert "cut" in str(found.audit).lower()
    assert "cut" in str(lrp.plan(X)).lower()


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(ids.double())


def test_integers_without_embedding() -> None:
    model = Counts()
    with refused(model, rp.NoPathError, "(integer|int64)", "embedding"):
        rp.LRP(model, rp.Zero()).explain(torch.arange(8).reshape(2, 4), target=0)


# -- targets and seeds --

TARGETS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "too large": (5, ("5", r"5|0 to 4|\[0, 5\)")),
    "too small": (-6, ("-6",)),
    "one of a batch too large": (torch.tensor([0, 7]), ("7",)),
    "too many": (torch.tensor([0, 1, 2]), ("3", "2")),
    "floating relevance of a wrong shape": (torch.ones(2, 4), (r"\(2, 4\)", r"\(2, 5\)")),
    "mask of nothing": (torch.zeros(2, 5, dtype=torch.bool), ("False everywhere",)),
    "mask of a wrong shape": (torch.ones(2, 6, dtype=torch.bool), (r"\(2, 6\)", r"\(2, 5\)")),
    "tuple too long": ((0, 1, 2), ("target",)),
    "tuple out of range": ((9,), ("9",)),
    "text": ("cat", ("target", "str")),
    "callable that gives no tensor": (lambda output: 3.0, ("callable|function|target", "tensor|Tensor")),
    "callable that leaves the graph": (lambda output: output.detach()[:, 0], ("target|reach|path",)),
    "not a number": (torch.full((2, 5), torch.nan), ("(NaN|nan|finite)",)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    target, patterns = TARGETS[name]
    if isinstance(target, Tensor) and target.is_floating_point():
        target = target.double()
    model = residual_net()
    error = rp.RelpropError if name in ("callable that leaves the graph", "not a number") else rp.InputError
    with refused(model, error, *patterns):
        rp.LRP(model, rp.Zero()).explain(picture(), target=target)


def test_no_target_on_an_output_that_is_not_2d() -> None:
    model = unet()
    with refused(model, rp.InputError, "target", r"\(2, 2, 8, 8\)"):
        rp.LRP(model, rp.Zero()).explain(torch.randn(2, 2, 8, 8).double())


@pytest.mark.parametrize("seed", ["two", torch.ones(3), None, object()], ids=["word", "shape", "none", "object"])
def test_seed(seed: Any) -> None:
    model = residual_net()
    with refused(model, rp.InputError, "seed"):
        rp.LRP(model, rp.Zero()).explain(picture(), target=0, seed=seed)


def test_layer_that_is_not_there() -> None:
    model = residual_net()
    with refused(model, rp.InputError, "layers", "no_such_layer"):
        rp.LRP(model, rp.Zero()).explain(picture(), target=0, layers=["no_such_layer"])
    with refused(model, rp.InputError, "blocks.0.conv1"):
        rp.LRP(model, rp.Zero()).explain(picture(), target=0, layers=["block.0.conv1"])


# -- numbers --


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_input_that_is_not_finite(value: float) -> None:
    model, x = residual_net(), picture()
    x[1, 2, 3, 4] = value
    with refused(model, rp.InputError, "(NaN|nan|inf)", "input"):
        rp.LRP(model, rp.Zero()).explain(x, target=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_output_that_is_not_finite(value: float) -> None:
    model = Body(lambda h: h)
    with torch.no_grad():
        model.last.bias[1] = value
    with refused(model, rp.InputError, "(NaN|nan|inf)", "output"):
        rp.LRP(model, rp.Zero()).explain(X, target=1)


# -- rules and selectors --

PARAMETERS: dict[str, tuple[Any, type[Exception], str]] = {
    "epsilon": (lambda: rp.Epsilon(-1.0), rp.RuleError, "epsilon.*-1"),
    "epsilon is nan": (lambda: rp.Epsilon(float("nan")), rp.RuleError, "epsilon.*nan"),
    "gamma": (lambda: rp.Gamma(-0.1), rp.RuleError, "gamma.*-0.1"),
    "variant": (lambda: rp.Gamma(variant="other"), rp.RuleError, "variant.*other"),
    "bias": (lambda: rp.ZPlus(bias="half"), rp.RuleError, "bias.*half"),
    "alpha minus beta": (lambda: rp.AlphaBeta(2, 2), rp.RuleError, "alpha.*beta"),
    "alpha": (lambda: rp.AlphaBeta(0.5, -0.5), rp.RuleError, "alpha"),
    "box": (lambda: rp.ZBox(1.0, -1.0), rp.RuleError, "low.*high"),
    "pair": (lambda: rp.Composite([rp.Zero()]), rp.SelectorError, "pair"),
    "selector": (lambda: rp.Composite([("conv", rp.Zero())]), rp.SelectorError, "selector"),
    "selector as text": (lambda: rp.Composite([("conv*", rp.Zero())]), rp.SelectorError, r'Name\("conv\*"\)'),
    "selector as type": (lambda: rp.Composite([(nn.Conv2d, rp.Zero())]), rp.SelectorError, r"Type\(Conv2d\)"),
    "rows as mapping": (lambda: rp.LRP(residual_net(), {rp.Name("*"): rp.Zero()}), rp.SelectorError, "rows.items"),
    "class": (lambda: rp.Composite([(rp.Kind("conv"), rp.Zero)]), rp.RuleError, "Zero"),
    "no rule": (lambda: rp.Composite([(rp.Kind("conv"), 0.25)]), rp.RuleError, "0.25"),
    "name": (lambda: rp.Name(3), rp.SelectorError, "Name"),
    "no composite": (lambda: rp.LRP(residual_net(), "epsilon"), rp.RelpropError, r"'epsilon'.*rp\.Eps"),
    "an estimator": (
        lambda: rp.LRP(SimpleNamespace(predict=None), rp.Zero()),  # type: ignore[arg-type]
        rp.RelpropError,
        "relprop.tabular.Explainer",
    ),
    "no model": (lambda: rp.LRP(lambda x: x, rp.Zero()), rp.RelpropError, "(Module|model)"),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter(name: str) -> None:
    build, error, pattern = PARAMETERS[name]
    with pytest.raises(error, match=pattern):
        build()


SERVES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "gamma on a ReLU": ((rp.Kind("relu"), rp.Gamma()), ("Gamma", "relu")),
    "identity on a convolution": ((rp.Kind("conv"), rp.Identity()), ("Identity", "conv")),
    "z+ on a pool": ((rp.Kind("pool"), rp.ZPlus()), ("ZPlus", "pool")),
    "pass on a layer that changes the shape": ((rp.Name("head"), rp.Pass()), ("Pass", "head|linear")),
    "bounds of a wrong shape": (
        (rp.Name("stem"), rp.ZBox(torch.zeros(5, 1, 1).double(), torch.ones(5, 1, 1).double())),
        ("ZBox", r"\(5, 1, 1\)"),
    ),
}


@pytest.mark.parametrize("name", SERVES)
def test_rule_that_cannot_serve(name: str) -> None:
    row, patterns = SERVES[name]
    model = residual_net()
    with refused(model, rp.RuleError, *patterns):
        rp.LRP(model, rp.Composite([row])).explain(picture(), target=0)


MATCHES_NOTHING = {
    "name": rp.Name("no_such_module.*"),
    "type": rp.Type(nn.Conv3d),
    "kind": rp.Kind("recurrent"),
    "index": rp.Index(99),
    "range": rp.Range(40, 50),
    "contradiction": rp.Name("head") & rp.Kind("conv"),
}


@pytest.mark.parametrize("name", MATCHES_NOTHING)
def test_selector_that_matched_nothing(name: str) -> None:
    selector = MATCHES_NOTHING[name]
    model = residual_net()
    composite = rp.Composite([(selector, rp.Zero()), (rp.Kind("conv"), rp.ZPlus())])
    with refused(model, rp.SelectorError, "match", type(selector).__name__ if name != "contradiction" else "Name"):
        rp.LRP(model, composite).explain(picture(), target=0)


def test_the_nearest_modules_are_offered_for_a_pattern() -> None:
    model = nn.Sequential(OrderedDict(blocks=nn.Sequential(nn.Linear(4, 3), nn.ReLU()))).double()
    with pytest.raises(rp.SelectorError, match=r"of this forward; nearest names: blocks\.0, .*Kinds that ran: linear"):
        rp.LRP(model, [(rp.Name("block.0.*"), rp.Zero())]).explain(X, target=0)


def test_presets_may_name_what_a_model_lacks() -> None:
    """A preset is made for many models: a network without convolutions is no error."""
    found = rp.LRP(stack(nn.ReLU()), rp.EpsilonPlusFlat()).explain(X, target=0)
    assert torch.isfinite(found.relevance).all()


@pytest.mark.parametrize("target", ["cat", 1.0, 1.5, {"class": 1}], ids=repr)
def test_a_target_that_is_none_lists_the_forms(target: Any) -> None:
    model = stack()
    kind = type(target).__name__
    with refused(model, rp.InputError, rf"\({kind}\) is not understood: give", "an int; a list", "boolean mask"):
        rp.LRP(model, rp.Zero()).explain(X, target=target)
    if target == 1.0:
        with refused(model, rp.InputError, "target 1.0 .*: give 1, an int; "):
            rp.LRP(model, rp.Zero()).explain(X, target=target)


def test_a_function_that_torch_has_no_derivative_for() -> None:
    model = Body(torch.special.airy_ai)
    with refused(model, rp.NoPathError, r"no derivative for \(model\)\.special_airy_ai\. Compute", r"op\('special_ai"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)
    model = Body(lambda h: torch.special.airy_ai(h.detach() + h))
    with refused(model, rp.NoPathError, "special_airy_ai. The gradient is also cut at .*detach. Compute it"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)
    model = Body(lambda h: torch.autograd.grad(h.sum(), h)[0])
    with refused(model, rp.NoPathError, "the gradient is cut at .*grad"):
        rp.LRP(model, rp.Zero()).explain(X, target=0)


def test_names_of_modules_that_hold_others() -> None:
    model = nn.Sequential(OrderedDict(blocks=stack(), block=nn.Linear(3, 2).double()))
    with refused(model, rp.SelectorError, r"matched none .*no operation runs in 'blocks' itself.*: 'blocks\.\*'\."):
        rp.LRP(model, [(rp.Name("blocks"), rp.Gamma())]).explain(X, target=0)
    with refused(model, rp.SelectorError, "nearest names: .*blocks"):
        rp.LRP(model, [(rp.Name("blocksy"), rp.Gamma())]).explain(X, target=0)
