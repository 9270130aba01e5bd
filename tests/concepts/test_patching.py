"""Attribution patching against the definition: runs of the model with values exchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import Channels, Dimensions, Directions, Heads, Mask, Neurons, Tokens
from relprop.concepts.patching import activation_patching, attribution_patching, native_gradient, relp
from tests.concepts.nets import small
from tests.concepts.test_crp import Block
from tests.support.compare import assert_close
from tests.support.state import assert_same_state, snapshot

transformers = pytest.importorskip("transformers")


def metric(out: Any) -> Tensor:
    return out.logits[:, -1, 3] - out.logits[:, -1, 8]


def gpt2() -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=12, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    ids = torch.randint(17, (2, 7))
    other = ids.clone()
    other[:, 2] = (other[:, 2] + 5) % 17
    return model, {"input_ids": ids, "use_cache": False}, {"input_ids": other, "use_cache": False}


PLACES = ["transformer.h.*.attn.c_proj:in", "transformer.h.*.mlp.c_proj", "transformer.ln_f:in"]
NAMES = [f"transformer.h.{i}.attn.c_proj:in" for i in (0, 1)] + [f"transformer.h.{i}.mlp.c_proj" for i in (0, 1)]


def by_hand(model: nn.Module, given: dict[str, Any], other: dict[str, Any], name: str) -> tuple[Tensor, Tensor]:
    """(a' - a) and the gradient of the metric at a, with PyTorch's own hooks and autograd."""
    kept: list[Tensor] = []
    module = model.get_submodule(name.removesuffix(":in"))
    if name.endswith(":in"):
        handle = module.register_forward_pre_hook(lambda m, args: kept.append(args[0]))
    else:
        handle = module.register_forward_hook(lambda m, args, out: kept.append(out))
    value = metric(model(**given)).sum()
    model(**other)
    handle.remove()
    (g,) = torch.autograd.grad(value, kept[0])
    return (kept[1] - kept[0]).detach(), g


def test_with_the_native_gradient_it_is_attribution_patching() -> None:
    model, given, other = gpt2()
    before = snapshot(model)
    found = attribution_patching(native_gradient(model), given, other, PLACES, metric=metric)
    assert_same_state(before, snapshot(model))
    assert list(found.effects) == [*NAMES, "transformer.ln_f:in"]
    for name in found.effects:
        shift, g = by_hand(model, given, other, name)
        assert_close(found.shift[name], shift, 1e-10, name)
        assert_close(found.gradients[name], g, 1e-8, name)
        assert_close(found.effects[name], shift * g, 1e-8, name)
    assert_close(found.metric, metric(model(**given)).detach(), 1e-12)
    assert_close(found.other, metric(model(**other)).detach(), 1e-12)


def test_relp_takes_the_gradient_of_relevance() -> None:
    model, given, other = gpt2()
    lrp = rp.LRP(model, rp.AttnLRP())
    found = attribution_patching(lrp, given, other, PLACES, metric=metric)
    e = lrp.explain(**given, target=metric, layers=PLACES)
    for name in found.effects:
        assert_close(found.effects[name], by_hand(model, given, other, name)[0] * e.gradients[name], 1e-9, name)
    plain = attribution_patching(native_gradient(model), given, other, PLACES, metric=metric)
    assert any((found.effects[n] - plain.effects[n]).abs().max() > 1e-3 for n in found.effects)


def test_relp_by_what_its_rules_hold_constant() -> None:
    """The gradient of a form in which norms' statistics and activations' factors are detached, and nothing else."""
    model, x = Block().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    other = torch.randn_like(x)
    kept: dict[str, Tensor] = {}

    def keep(name: str, values: Tensor) -> Tensor:
        kept[name] = values
        return values

    def norm(layer: nn.LayerNorm, h: Tensor) -> Tensor:
        deviation = (h.var(-1, correction=0, keepdim=True) + layer.eps).sqrt().detach()
        return (h - h.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias

    h = x.clone().requires_grad_()
    parts = keep("qkv", model.qkv(norm(model.norm, keep("norm:in", h.clone())))).chunk(3, -1)
    q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in parts)
    z = keep("out:in", (torch.softmax(q @ k.transpose(-2, -1) / 2**0.5, -1) @ v).transpose(1, 2).flatten(2))
    h = h + keep("out", model.out(z))
    u = keep("up", model.up(norm(model.second, keep("second:in", h.clone()))))
    h = h + model.down(u * (nn.functional.gelu(u) / u).detach())
    grads = torch.autograd.grad(model.head(h.mean(1))[:, 2].sum(), list(kept.values()))
    found = attribution_patching(relp(model), x, other, list(kept), metric=2)
    for name, g in zip(kept, grads, strict=True):
        assert_close(found.gradients[name], g, 1e-9, name)
        assert found.effects[name].any()


UNITS = {"heads": Heads(of=4), "tokens": Tokens(), "dimensions": Dimensions(), "some dimensions": Dimensions(3, 5)}


@pytest.mark.parametrize("units", UNITS)
def test_activation_patching_runs_the_model_with_values_exchanged(units: str) -> None:
    model, given, other = gpt2()
    before = snapshot(model)
    found = activation_patching(model, given, other, NAMES[::3], metric=metric, units=UNITS[units])
    assert_same_state(before, snapshot(model))
    assert list(found) == NAMES[::3]
    for name, effects in found.items():
        shift, _ = by_hand(model, given, other, name)
        module = model.get_submodule(name.removesuffix(":in"))
        for k, effect in enumerate(effects.T):
            mask = torch.zeros(7, 4, 4, dtype=torch.float64)
            if units == "heads":
                mask[:, k] = 1
            elif units == "tokens":
                mask[k] = 1
            else:
                mask.flatten(1)[:, (k if units == "dimensions" else (3, 5)[k])] = 1
            added = shift * mask.flatten(1)
            if name.endswith(":in"):
                handle = module.register_forward_pre_hook(lambda m, args, added=added: (args[0] + added,))
            else:
                handle = module.register_forward_hook(lambda m, args, out, added=added: out + added)
            with torch.no_grad():
                expected = metric(model(**given))
            handle.remove()
            assert_close(effect, expected - metric(model(**given)).detach(), 1e-9, f"{name} {k}")


def test_a_small_shift_has_the_effect_that_the_native_gradient_tells() -> None:
    """The definition's derivative: halving the shift quarters what is left of the difference."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)).double()
    x, step = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    left = []
    for size in (1e-2, 5e-3):
        told = attribution_patching(native_gradient(model), x, x + size * step, ["1"], metric=1).by()["1"]
        true = activation_patching(model, x, x + size * step, "1", metric=1)["1"]
        left.append((told - true).abs().max())
        assert left[-1] < 0.05 * true.abs().max()
    assert float(left[0] / left[1]) == pytest.approx(4.0, rel=0.1)


def test_where_the_rules_are_exact_so_is_relp() -> None:
    """Rectifiers that keep their side, products with one factor exchanged: LRP-0 is the effect itself."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    for i in (0, 2):
        model[i].bias.data += 20.0
    x, other = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    for places in ("0", "2", "2:in"):
        told = attribution_patching(rp.LRP(model, rp.Zero()), x, other, places, metric=0).by()[places]
        assert_close(told, activation_patching(model, x, other, places, metric=0)[places], 1e-8, places)


def test_relp_sees_through_an_activation_that_saturates() -> None:
    """Where an activation is flat its derivative tells of no effect; the identity rule's factor y / x does.

    By hand: y = tanh(x), metric 2 y. From x = 4 to x = 0 the true effect is -2 tanh(4) = -1.9987; the native gradient
    tells -4 * 2 (1 - tanh(4)^2) = -0.0107; the factor tells -4 * 2 tanh(4) / 4, the effect itself.
    """

    class Saturated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.inner(x).tanh()

    model, x, zero = Saturated(), torch.tensor([[4.0]]).double(), torch.zeros(1, 1).double()
    true = activation_patching(model, x, zero, "inner", metric=0)["inner"]
    told = attribution_patching(relp(model), x, zero, "inner", metric=0).effects["inner"]
    plain = attribution_patching(native_gradient(model), x, zero, "inner", metric=0).effects["inner"]
    assert float(true) == pytest.approx(-1.998659, rel=1e-6)
    assert_close(told, true, 1e-9)
    assert float(plain) == pytest.approx(-0.0107, rel=1e-2)


def test_effects_by_unit_and_table() -> None:
    model, given, other = gpt2()
    found = attribution_patching(native_gradient(model), given, other, PLACES[:2], metric=metric)
    for name, heads in found.by(Heads(of=4)).items():
        assert_close(heads, found.effects[name].reshape(2, 7, 4, 4).sum((1, 3)), 1e-12)
    names, table = found.table(Tokens())
    assert names == NAMES and table.shape == (4, 7)
    assert_close(table[0], found.effects[NAMES[0]].sum((0, 2)), 1e-12)
    rows = found.strongest(3, Heads(of=4))
    every = found.table(Heads(of=4))[1]
    assert [abs(r[2]) for r in rows] == pytest.approx(sorted(every.abs().flatten().tolist(), reverse=True)[:3])
    assert rows[0][2] == pytest.approx(float(every[names.index(rows[0][0]), rows[0][1]]))


def test_directions_are_exchanged_in_their_own_coordinates() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).double()
    x, other = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    vectors = torch.randn(2, 5, dtype=torch.float64)
    told = attribution_patching(native_gradient(model), x, other, "0", metric=1).by(Directions(vectors))["0"]
    true = activation_patching(model, x, other, "0", metric=1, units=Directions(vectors))["0"]
    assert_close(told, true, 1e-9)
    h = (model[0](other) - model[0](x)).detach() @ torch.linalg.pinv(vectors)
    assert_close(true, h * (vectors @ model[1].weight[1]).detach(), 1e-9)


def test_a_mask_and_single_neurons() -> None:
    model, x, _ = small()
    other, mask = torch.randn_like(x), torch.rand(3, 4, 4) > 0.5
    whole = activation_patching(model, x, other, "conv1", metric=1, units=Mask(mask))["conv1"]
    assert whole.shape == (2, 1)
    one = activation_patching(model, x, other, "conv1", metric=1, units=Neurons(7, 40))["conv1"]
    with torch.no_grad():
        h, to = model.conv1(x), model.conv1(other)
        for k, i in enumerate((7, 40)):
            at = torch.zeros(48).double()
            at[i] = 1
            changed = (h + (to - h) * at.reshape(3, 4, 4)).relu()
            y = model.head((model.conv2(changed) + changed).relu().flatten(1))
            assert_close(one[:, k], (y - model(x))[:, 1], 1e-10)


def test_a_picture(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    model, given, other = gpt2()
    found = attribution_patching(rp.LRP(model), given, other, PLACES[:2], metric=metric)
    assert found.save(tmp_path / "heads.png", Heads(of=4)).stat().st_size > 1000
    assert found.save(tmp_path / "tokens.svg", Tokens(), across=list("abcdefg")).stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": []}, "no places are named"),
        ({"places": "transformer.h.7"}, "nearest names: .*transformer.h.1"),
        (
            {"other": {"input_ids": torch.zeros(2, 5, dtype=torch.long)}},
            r"gives \(2, 7, 16\) and the other one \(2, 5, 16\)",
        ),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    model, given, other = gpt2()
    asked = {"given": given, "other": other, "places": "transformer.h.0.mlp.c_proj", **change}
    with pytest.raises(rp.InputError, match=message):
        attribution_patching(rp.LRP(model), metric=metric, **asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": "(model).relu"}, "is no module: only what modules return"),
        ({"places": "block.conv7"}, "nearest names: conv"),
        ({"units": Channels(3)}, "channel 3 is out of range"),
        ({"metric": None}, "takes a metric as an index, a tuple or a function"),
        ({"metric": lambda y: 3}, "the metric's function returned int"),
        ({"other": torch.zeros(1, 2, 4, 4).double()}, "do not give values of one shape"),
    ],
)
def test_what_cannot_be_exchanged(change: dict[str, Any], message: str) -> None:
    model, x, _ = small()
    before = snapshot(model)
    asked: dict[str, Any] = {"given": x, "other": x + 1, "places": "conv1", "metric": 1, **change}
    with pytest.raises(rp.InputError, match=message):
        activation_patching(model, **asked)
    assert_same_state(before, snapshot(model))


def test_a_model_where_an_lrp_is_wanted_and_the_reverse() -> None:
    model, x, _ = small()
    with pytest.raises(rp.InputError, match=r"takes an LRP, got \w+: relp\(model\)"):
        attribution_patching(model, x, x + 1, "conv1", metric=1)  # type: ignore[arg-type]
    with pytest.raises(rp.InputError, match="takes a torch.nn.Module, got function"):
        activation_patching(relp, x, x + 1, "conv1", metric=1)  # type: ignore[arg-type]
    found = activation_patching(rp.LRP(model), x, x + 1, "conv1", metric=1)
    assert_close(found["conv1"], activation_patching(model, x, x + 1, "conv1", metric=1)["conv1"], 1e-12)
