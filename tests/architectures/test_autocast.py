"""Forwards in several types: `torch.autocast`, a model that enters it itself, half precision with float32 modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop as rp
from tests.architectures.arch_models import draw
from tests.architectures.test_precision import Deep
from tests.reference.recipe import fill
from tests.support.casting import LikeCuda
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot
from tests.support.vision import declare_torchvision_operators, photograph, vision_model

HALF = torch.bfloat16


def autocast(dtype: torch.dtype = HALF) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=dtype)


def single(*shape: int, seed: int = 1) -> Tensor:
    return draw(*shape, seed=seed, dtype=torch.float32)


def rounded(t: Tensor) -> Tensor:
    """Float32 numbers that bfloat16 holds exactly."""
    return t.detach().bfloat16().float()


def cosine(x: Tensor, y: Tensor) -> float:
    return F.cosine_similarity(x.double().flatten(), y.double().flatten(), 0).item()


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


# --- whole networks, beside their explanations in float32 and float64 ---


class Recurrent(nn.Module):
    """With a layer before, cells are given half precision and weights in float32."""

    def __init__(self, kind: type[nn.RNNBase], before: bool = False, **settings: Any) -> None:
        super().__init__()
        self.into = nn.Linear(12, 12) if before else nn.Identity()
        self.cells = kind(12, 16, 2, batch_first=True, **settings)
        self.head = nn.Linear(16 * (2 if settings.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.into(x))[0][:, -1])


def vgg() -> nn.Module:
    """Its convolutions, and a head that does not take most of the time."""
    model = vision_model("vgg11_bn")
    model.classifier = nn.Linear(512 * 7 * 7, 10, dtype=torch.float64)
    return model


def vit() -> nn.Module:
    declare_torchvision_operators()
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5)
    nn.init.normal_(model.heads.head.weight, 0, 0.1)
    return model


def llama() -> nn.Module:
    declare_torchvision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_hidden_layers=2, use_cache=False, **sizes))


def bert() -> nn.Module:
    declare_torchvision_operators()
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_labels": 3}
    return BertForSequenceClassification(BertConfig(vocab_size=40, num_hidden_layers=2, **sizes))


@dataclass
class Case:
    """How near bfloat16 comes: `near` for rules that follow the gradient, `nearer` for those that do not cancel."""

    make: Callable[[], nn.Module]
    x: Tensor
    presets: str
    target: Any = 1
    near: float = 0.998
    nearer: float = 0.998


IDS = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(2))
VISION = "Zero UniformEpsilon EpsilonPlus EpsilonPlusFlat EpsilonGammaBox EpsilonAlpha2Beta1Flat"
CASES = {
    "vgg11_bn": Case(vgg, photograph(32), VISION, near=0.9, nearer=0.99),
    "resnet18": Case(lambda: vision_model("resnet18"), photograph(48), VISION, near=0.95, nearer=0.99),
    "vit": Case(vit, photograph(32), "Zero EpsilonPlus AttnLRP CPLRP"),
    "llama": Case(llama, IDS, "UniformEpsilon AttnLRP CPLRP", target=(-1, 5)),
    "bert": Case(bert, IDS, "UniformEpsilon EpsilonPlus AttnLRP CPLRP"),
    "lstm": Case(lambda: Recurrent(nn.LSTM, True), draw(2, 6, 12), "UniformEpsilon LSTMLRP AttnLRP", near=0.95),
    "gru": Case(lambda: Recurrent(nn.GRU, bidirectional=True), draw(2, 6, 12), "LSTMLRP AttnLRP", near=0.995),
}
CANCELLING = ("Zero", "UniformEpsilon", "AttnLRP")


def preset(name: str) -> Any:
    return rp.EpsilonGammaBox(low=-4.0, high=4.0) if name == "EpsilonGammaBox" else getattr(rp, name)()


@pytest.fixture(scope="module")
def models() -> Callable[[str], nn.Module]:
    made: dict[str, nn.Module] = {}

    def model(name: str) -> nn.Module:
        if name not in made:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                made[name] = CASES[name].make().eval()
        return made[name]

    return model


@pytest.mark.parametrize(("name", "rules"), [(n, p) for n, case in CASES.items() for p in case.presets.split()])
def test_near_the_explanation_in_full_precision(name: str, rules: str, models: Callable[[str], nn.Module]) -> None:
    """The forward is the model's own under autocast, bit for bit; relevance has the input's type and balances."""
    case, model = CASES[name], models(name)
    wide, x = (case.x, case.x.float()) if case.x.is_floating_point() else (case.x, case.x)
    exact = rp.LRP(model.double(), preset(rules)).explain(wide, target=case.target)
    single = rp.LRP(model.float(), preset(rules)).explain(x, target=case.target)
    before = snapshot(model)
    with autocast():
        plain = logits(model(x)).detach()
        found = rp.LRP(model, preset(rules)).explain(x, target=case.target, audit="sites")
        assert torch.is_autocast_enabled("cpu")
    assert_same_state(before, snapshot(model))
    assert plain.dtype == HALF and torch.equal(logits(found.output), plain)
    assert found.relevance.dtype == torch.float32
    assert found.audit.tolerance == 0.25 and found.audit.unexplained_share < 0.02
    assert all(abs(v) < 0.02 * found.audit.scale for _, v in found.audit.sites), found.audit.sites[:3]
    least = case.near if rules in CANCELLING else case.nearer
    for relevance in (exact.relevance, single.relevance):
        assert cosine(found.relevance, relevance) > least, cosine(found.relevance, relevance)


# --- the same numbers as a model in half precision ---


class Maps(nn.Module):
    """Linear maps of every kind, in whose forward autocast leaves nothing in float32 but the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deep = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, groups=6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.row = nn.Conv1d(4, 5, 3, padding="same")
        self.mix, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.matrix = nn.Parameter(torch.empty(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.deep(F.relu(self.conv(x))))
        x = F.relu(self.row(F.relu(self.up(x)).flatten(2)))
        x = F.silu(self.mix(x.mT))  # of strided memory
        x = F.relu(x @ self.matrix) + torch.einsum("nti,io->nto", x, self.matrix)
        return self.head(x.mean(1))


def box_of_channels() -> Any:
    return rp.ZBox(torch.tensor([-4.0, -5.0, -6.0]).view(1, 3, 1, 1), torch.tensor([6.0, 5.0, 4.0]).view(1, 3, 1, 1))


RULES: dict[str, Callable[[], Any]] = {
    "zero": rp.Zero,
    "epsilon": lambda: rp.Epsilon(1e-3),
    "distributed": lambda: rp.Epsilon(1e-2, bias="distribute"),
    "z+": rp.ZPlus,
    "alpha-beta": rp.AlphaBeta,
    "gamma": rp.Gamma,
    "standard": lambda: rp.Gamma(variant="standard", epsilon=0.1),
    "flat": rp.Flat,
    "w2": rp.WSquare,
    "box": lambda: rp.ZBox(-4.0, 4.0),
    "box of channels": lambda: rp.Composite([(rp.Entry(), box_of_channels()), (rp.All(), rp.ZPlus())]),
    "step": lambda: rp.StepRule(1e-3),
}


@pytest.mark.parametrize("rules", RULES)
def test_autocast_is_half_precision(rules: str) -> None:
    """With weights and inputs that bfloat16 holds, autocast and a model in bfloat16 compute the same: relevance inside
    is equal bit for bit, and at the input, where it is in float32, to the last rounding."""
    model = fill(Maps())
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(rounded(p))
    x = rounded(single(2, 3, 6, 6))
    ask: dict[str, Any] = {"target": 1, "layers": ["deep:in", "row", "mix:in"]}
    expected = rp.LRP(copy.deepcopy(model).bfloat16(), RULES[rules]()).explain(x.bfloat16(), **ask)
    with autocast():
        found = rp.LRP(model, RULES[rules]()).explain(x, **ask)
    assert torch.equal(found.output, expected.output)
    for name, relevance in expected.layers.items():
        assert torch.equal(found.layers[name], relevance), name
    assert found.relevance.dtype == torch.float32
    assert_close(found.relevance, expected.relevance.float(), rtol=2**-7)


@pytest.mark.parametrize("rules", ["epsilon", "z+", "gamma", "alpha-beta"])
def test_sums_of_a_map_against_its_formula(rules: str) -> None:
    """One dense layer by its matrix of contributions, of numbers rounded as autocast rounds them, in float64."""
    model, x = fill(nn.Linear(64, 5)), single(3, 64).abs()
    with autocast():
        found = rp.LRP(model, RULES[rules]()).explain(x, target=lambda z: z[:, 2])
    a, w, b = (t.detach().bfloat16().double() for t in (x, model.weight[2], model.bias[2]))  # type: ignore[union-attr]
    z, c = (F.linear(x.bfloat16(), model.weight.bfloat16(), model.bias.bfloat16())[:, 2].double(), a * w)  # type: ignore[union-attr]
    if rules == "epsilon":
        share = c / (z + 1e-3 * z.sign())[:, None]
    elif rules == "gamma":
        up = z[:, None] > 0
        agree = torch.where(up, c.clamp(min=0), c.clamp(max=0))
        bias = b + 0.25 * torch.where(up, b.clamp(min=0), b.clamp(max=0))
        share = (c + 0.25 * agree) / ((c + 0.25 * agree).sum(1, True) + bias)
    else:
        up, down = c.clamp(min=0), c.clamp(max=0)
        up = up / (up.sum(1, True) + b.clamp(min=0))
        share = up if rules == "z+" else 2 * up - down / (down.sum(1, True) + b.clamp(max=0))
    assert_close(found.relevance.double(), share * z[:, None], rtol=0.01)


# --- where autocast is entered, and where it is not ---


class Inside(nn.Module):
    """Enters autocast itself, and leaves it before it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with autocast():
            y = self.model(x)
        return y.float()


@pytest.mark.parametrize("rules", [rp.UniformEpsilon, rp.EpsilonPlusFlat, rp.AttnLRP, rp.CPLRP])
def test_a_model_that_enters_autocast_itself(rules: Any) -> None:
    model, x = fill(Deep()), single(2, 5, 8)
    with autocast():
        around = rp.LRP(model, rules()).explain(x, target=1)
    found = rp.LRP(Inside(model), rules()).explain(x, target=1)
    assert found.output.dtype == torch.float32 and torch.equal(found.output, around.output.float())
    assert found.audit.tolerance == 0.25
    assert_close(found.relevance, around.relevance, rtol=1e-6)


@dataclass(frozen=True)
class Probe(rp.ZPlus):
    """Notes whether autocast is on where a rule runs."""

    def pull(self, op: Any, a: Any, z: Any, g: Any, books: Any) -> Tensor:
        STATES.append((torch.is_autocast_enabled("cpu"), op.apply(a, op.weight).dtype, z.dtype))
        return super().pull(op, a, z, g, books)


STATES: list[Any] = []


def test_rules_run_outside_autocast() -> None:
    """Denominators in float32 of products in bfloat16; the caller's autocast stays as it was, also where one raises."""
    STATES.clear()
    model = fill(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    lrp = rp.LRP(model, Probe())
    with autocast():
        for targets in ([1], [0, 2]):
            lrp.explain(single(2, 4), targets=targets)
        with pytest.raises(rp.InputError):
            lrp.explain(single(2, 4), target=7)
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == HALF
        assert (single(2, 2) @ single(2, 2)).dtype == HALF
    assert set(STATES) == {(False, HALF, torch.float32)} and len(STATES) == 6
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("rules", [rp.UniformEpsilon, rp.EpsilonPlusFlat, rp.EpsilonAlpha2Beta1, rp.AttnLRP])
@pytest.mark.parametrize("way", ["not reentrant", "reentrant"])
def test_checkpoints_compute_again_under_autocast(way: str, rules: Any) -> None:
    model, plain, x = fill(Deep(way)), Deep(), single(2, 5, 8)
    plain.load_state_dict(model.state_dict())
    types: list[torch.dtype] = []
    for block in model.blocks:
        block.up.register_forward_hook(lambda module, args, output: types.append(output.dtype))
    with autocast():
        expected = rp.LRP(plain, rules()).explain(x, target=1)
        found = rp.LRP(model, rules()).explain(x, target=1)
    assert types == [HALF] * 2 * len(model.blocks)
    assert torch.equal(found.output, expected.output)
    assert_close(found.relevance, expected.relevance, rtol=1e-5)


@pytest.mark.parametrize("rules", [rp.ZPlus(epsilon=0.1), rp.Gamma(epsilon=0.5), rp.AttnLRP(), rp.CPLRP()], ids=str)
def test_differentiable_relevance(rules: Any) -> None:
    """With stabilisers that are felt: next to a denominator's zero a derivative is made by its last digits."""
    model, x = fill(Deep()), single(2, 5, 8)
    with autocast():
        plain = rp.LRP(model, rules).explain(x, target=1)
        found = rp.LRP(model, rules).explain(x, target=1, create_graph=True)
    assert cosine(found.relevance, plain.relevance) > 0.9999
    exact = rp.LRP(model, rules).explain(x, target=1, create_graph=True)
    weights = [model.blocks[0].up.weight, model.head.weight]
    slopes = [torch.autograd.grad(e.relevance.square().sum(), weights) for e in (found, exact)]
    for one, other in zip(*slopes, strict=True):
        assert one.dtype == torch.float32 and cosine(one, other) > 0.99


def test_frozen_weights_and_several_targets() -> None:
    """What is kept of weights is kept for each type: one `frozen()` may see both."""
    model, x = fill(Maps()), single(2, 3, 6, 6)
    for rules in (rp.ZPlus(), rp.EpsilonAlpha2Beta1()):
        lrp = rp.LRP(model, rules)
        plain = lrp.explain(x, target=1).relevance
        with autocast():
            cast = lrp.explain(x, target=1).relevance
        with lrp.frozen():
            for _ in range(2):
                assert torch.equal(lrp.explain(x, target=1).relevance, plain)
                with autocast():
                    assert torch.equal(lrp.explain(x, target=1).relevance, cast)
                    for e in lrp.explain(x, targets=[0, 1])[1:]:
                        assert_close(e.relevance, cast, rtol=1e-2)


@pytest.mark.parametrize("rules", ["zero", "epsilon", "z+", "gamma"])
def test_relevance_of_weights(rules: str) -> None:
    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))
    x = single(2, 3, 4, 4)
    ask: dict[str, Any] = {"target": 1, "layers": ["0.weight", "4.weight"]}
    expected = rp.LRP(model.eval(), RULES[rules]()).explain(x, **ask)
    with autocast():
        found = rp.LRP(model, RULES[rules]()).explain(x, **ask)
    for name, relevance in expected.layers.items():
        assert found.layers[name].dtype == torch.float32
        assert cosine(found.layers[name], relevance) > 0.998, name


# --- calls with types of their own ---


class Calls(nn.Module):
    """One torch call, or a few, on parameters of these shapes."""

    def __init__(self, run: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.run = run
        for i, (name, shape) in enumerate(shapes.items()):
            setattr(self, name, nn.Parameter(single(*shape, seed=i + 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


CALLS: dict[str, tuple[Calls, Tensor]] = {
    "addmm": (Calls(lambda m, x: torch.addmm(m.b, x, m.w).relu(), w=(5, 6), b=(6,)), single(4, 5)),
    "vector": (Calls(lambda m, x: torch.mv(x, m.w), w=(5,)), single(4, 5)),
    "three factors": (Calls(lambda m, x: torch.einsum("ti,ij,jk->tk", x, m.w, m.v), w=(5, 6), v=(6, 3)), single(4, 5)),
    "bilinear": (Calls(lambda m, x: F.bilinear(x, m.y, m.w, m.b), w=(3, 5, 4), y=(2, 4), b=(3,)), single(2, 5)),
    "squares": (Calls(lambda m, x: F.bilinear(x, x.relu(), m.w, m.b), w=(3, 5, 5), b=(3,)), single(2, 5)),
    "attention by hand": (
        Calls(lambda m, x: torch.softmax((x @ m.w) @ x.mT / 3, -1) @ x, w=(5, 5)),
        single(2, 4, 5),
    ),
    "masked attention": (
        Calls(lambda m, x: F.scaled_dot_product_attention(x @ m.w, x, x.relu(), m.mask), w=(5, 5), mask=(4, 4)),
        single(2, 4, 5),
    ),
    "uneven padding": (Calls(lambda m, x: F.conv1d(x, m.w, m.b, padding="same"), w=(4, 3, 2), b=(4,)), single(2, 3, 5)),
    "hyper-network": (Calls(lambda m, x: F.linear(x, (x.mT @ m.w).mT), w=(4, 3)), single(4, 5)),
    "root mean square": (Calls(lambda m, x: F.rms_norm(x @ m.w, (6,)).relu() @ m.v, w=(5, 6), v=(6, 2)), single(4, 5)),
    "inverse factor": (
        Calls(lambda m, x: (x @ m.w).relu() @ (x.square().mean(-1, keepdim=True) + 1).rsqrt()[:5], w=(4, 5)),
        single(6, 4),
    ),
    "gated unit": (Calls(lambda m, x: F.glu(x @ m.w), w=(5, 6)), single(4, 5)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    model, x = CALLS[name]
    composites: list[Any] = [rp.UniformEpsilon(), rp.AttnLRP(), rp.CPLRP(), rp.Composite([(rp.All(), rp.Gradient())])]
    composites.append(rp.Composite([(rp.Kind("linear"), rp.ZPlus())]) if "linear" in kinds(model, x) else rp.Zero())
    if "matmul" in kinds(model, x):
        composites.append(rp.Composite([(rp.Kind("matmul") & ~rp.Kind("linear"), rp.SignalTakesAll())]))
    for composite in composites:
        expected = rp.LRP(model, composite).explain(x, target=whole)
        # no parameter asks for a gradient while a model is explained, and torch may choose a kernel by that
        frozen = copy.deepcopy(model).requires_grad_(False)
        with autocast():
            plain = frozen(x)
            found = rp.LRP(model, composite).explain(x, target=whole)
        assert torch.equal(found.output, plain), composite
        assert found.relevance.dtype == torch.float32
        assert cosine(found.relevance, expected.relevance) > 0.998, composite
        assert found.audit.tolerance == 0.25 and found.audit.unexplained_share < 0.01
        if composite == composites[1]:
            with autocast():
                again = rp.LRP(model, composite).explain(x, target=whole, create_graph=True)
            assert cosine(again.relevance, found.relevance) > 0.999


def whole(output: Tensor) -> Tensor:
    return output


def kinds(model: nn.Module, x: Tensor) -> set[str]:
    return {site.kind for site in rp.LRP(model, rp.Zero()).plan(x).sites}


@pytest.mark.parametrize(
    ("run", "x"),
    [
        (lambda m, x: torch.baddbmm(m.b, x, x.mT.relu()), single(3, 4, 5)),
        (lambda m, x: torch.addbmm(m.b[0], x, x.mT.relu()), single(3, 4, 5)),
        (lambda m, x: F.linear(x, (x.mT @ m.w).mT, m.b[0, 0, :3]), single(4, 5)),
        (lambda m, x: F.conv2d(x, x[:1, :, :3, :3].relu(), m.b[0, 0, :1]), single(2, 3, 6, 6)),
    ],
    ids=["baddbmm", "addbmm", "linear", "convolution"],
)
def test_a_bias_beside_a_product(run: Any, x: Tensor) -> None:
    """The call is carried out as product and sum: the same type, to the rounding of the one sum."""
    model = Calls(run, b=(3, 1, 4), w=(4, 3))
    with autocast():
        plain = model(x).detach()
        found = rp.LRP(model, rp.AttnLRP()).explain(x, target=whole)
    assert_close(found.output, plain, rtol=2**-7)
    exact = rp.LRP(model, rp.AttnLRP()).explain(x, target=whole)
    assert cosine(found.relevance, exact.relevance) > 0.998


@dataclass(frozen=True)
class Keeps(rp.Epsilon):
    """Keeps the weights that it is given."""

    def linear(self, op: Any, a: Any, z: Any, g: Any, books: Any) -> Tensor:
        STATES.append(op.weight)
        return super().linear(op, a, z, g, books)


def test_what_a_map_is_joined_of_is_not_rounded() -> None:
    """Constants of one call are joined outside autocast: torch's own call here has no half precision either."""
    STATES.clear()
    model, x = CALLS["bilinear"]
    with autocast():
        rp.LRP(model, Keeps()).explain(x, target=whole)
    assert torch.equal(STATES[0], torch.einsum("...j,oij->...oi", model.y, model.w))


def test_the_type_of_an_input_is_one_that_ran() -> None:
    model = Calls(lambda m, x: x.float() @ m.w, w=(4, 3))
    assert rp.LRP(model, rp.Zero()).explain(single(2, 4).bfloat16(), target=whole).audit.tolerance == 0.25
    assert rp.LRP(model, rp.Zero()).explain(single(2, 4), target=whole).audit.tolerance == 1e-3


@pytest.mark.parametrize("settings", [{}, {"attn_mask": 0}, {"need_weights": False}], ids=str)
def test_multi_head_attention(settings: dict[str, Any]) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.heads(x, x, x, **settings)

    if "attn_mask" in settings:
        settings = {"attn_mask": torch.triu(torch.full((5, 5), -torch.inf), 1)}
    model, x = fill(Attends()).eval(), single(2, 5, 8)
    for rules in (rp.AttnLRP(), rp.CPLRP(), rp.EpsilonPlus()):
        expected = rp.LRP(model, rules).explain(x, target=first)
        with autocast():
            plain = model(x)
            found = rp.LRP(model, rules).explain(x, target=first)
        for given, own in zip(found.output, plain, strict=True):
            assert (given is None and own is None) or torch.equal(given, own)
        assert cosine(found.relevance, expected.relevance) > 0.998


def first(output: Any) -> Tensor:
    return output[0]


# --- autocast as GPUs have it ---


@pytest.mark.parametrize("rules", [rp.UniformEpsilon, rp.EpsilonPlusFlat, rp.EpsilonAlpha2Beta1, rp.AttnLRP, rp.CPLRP])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "bert", "llama", "gru"])
def test_the_types_of_a_gpu(name: str, dtype: torch.dtype, rules: Any, models: Callable[[str], nn.Module]) -> None:
    """Softmax, norms and exponentials in float32 between maps in half precision, and sums of both."""
    case, model = CASES[name], models(name).float()
    x = case.x.float() if case.x.is_floating_point() else case.x
    expected = rp.LRP(model, rules()).explain(x, target=case.target)
    with LikeCuda(model, dtype):
        plain = logits(model(x)).detach()
        found = rp.LRP(model, rules()).explain(x, target=case.target)
    assert plain.dtype == dtype and torch.equal(logits(found.output), plain)
    assert found.relevance.dtype == torch.float32
    assert found.audit.unexplained_share < 0.01
    assert cosine(found.relevance, expected.relevance) > (0.95 if name == "resnet18" else 0.995)


# --- models that are themselves of several types ---


class Norms(nn.Module):
    """Half precision with its norms in float32, called on half precision and on float32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.deep, self.bn2 = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)
        self.up, self.bn3 = nn.ConvTranspose2d(6, 8, 2), nn.BatchNorm2d(8)
        self.mix, self.ln, self.rms = nn.Linear(8, 8), nn.LayerNorm(8), nn.RMSNorm(8)
        self.head, self.bn1 = nn.Linear(8, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.deep(F.relu(self.bn(self.conv(x))))), inplace=True)
        x = self.bn3(self.up(x)).flatten(2).mT
        x = self.ln(x + F.gelu(self.mix(x)))
        x = self.rms(x.float()).to(x.dtype)
        return self.bn1(self.head(x.mean(1)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "rules",
    [rp.Zero, rp.UniformEpsilon, rp.EpsilonPlus, rp.EpsilonPlusFlat, rp.EpsilonAlpha2Beta1, rp.Gamma, rp.AttnLRP],
)
def test_norms_kept_in_float32(rules: Any, dtype: torch.dtype) -> None:
    model, x = fill(Norms()).eval(), single(2, 3, 6, 6)
    expected = rp.LRP(model, rules()).explain(x, target=1)
    for module in model.children():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.to(dtype)
    plain = model(x.to(dtype)).detach()
    found = rp.LRP(model, rules()).explain(x.to(dtype), target=1, audit="sites")
    assert torch.equal(found.output, plain)
    assert found.relevance.dtype == dtype
    assert found.audit.unexplained_share < 0.02
    assert cosine(found.relevance, expected.relevance) > 0.995


def test_a_merged_norm_is_rounded_once() -> None:
    """A float32 batch norm's scale times a weight in half precision is rounded as a product, as is its bias."""
    conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    model = fill(nn.Sequential(conv, norm)).eval()
    conv.bfloat16()
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()  # type: ignore[operator]
    weight = (conv.weight.float() * scale[:, None, None, None]).detach().bfloat16().double()
    bias = ((conv.bias.float() - norm.running_mean) * scale + norm.bias).detach().bfloat16().double()  # type: ignore
    x = single(2, 3, 4, 4).abs().bfloat16()
    found = rp.LRP(model, rp.ZPlus()).explain(x, target=lambda z: z[:, 2])
    up = x.double() * weight[2].clamp(min=0)
    z = found.output[:, 2:3].double()
    expected = up / (up.sum(1, keepdim=True) + bias[2].clamp(min=0)) * z
    assert_close(found.relevance.double(), expected, rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_root_mean_square_norm_without_an_epsilon(dtype: torch.dtype) -> None:
    """torch's kernel takes float32's, whatever the input: entries this small tell."""
    x = (0.01 * single(3, 16)).to(dtype)
    model = Calls(lambda m, x: F.rms_norm(x, (16,)))
    e = rp.LRP(model, rp.AttnLRP()).explain(x, target=whole)
    assert_close(e.relevance.float(), e.output.float(), rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_forward_of_a_gated_unit_in_half_precision(dtype: torch.dtype) -> None:
    model, x = Calls(lambda m, x: F.glu(x)), single(64, 64).to(dtype)
    assert torch.equal(rp.LRP(model, rp.Zero()).explain(x, target=whole).output, model(x))
