"""Stock architectures as a user loads them: explained in one call, the books balanced, no trace left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import relprop as rp
from tests.support.state import assert_same_state, snapshot
from tests.transformers import zoo_models
from tests.transformers.zoo_models import FACTORIES, MORE, Case, make

pytest.importorskip("transformers", reason="the stock classes come from transformers")

SHARE = 1e-3
CLASS_PRESETS = {"mamba": rp.MambaLRP, "mamba2": rp.MambaLRP}
IMAGE = {f.__name__ for f in zoo_models.IMAGE + zoo_models.OTHER}
TEXT = sorted(set(FACTORIES) - IMAGE)


def leaves(found: Any) -> list[Tensor]:
    """All tensors of a nested structure."""
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, dict):
        return [t for value in found.values() for t in leaves(value)]
    if isinstance(found, (list, tuple)):
        return [t for value in found for t in leaves(value)]
    return []


def explained(case: Case, output: Any) -> Tensor:
    return case.target(output) if callable(case.target) else output[:, case.target]


def check(case: Case, preset: Any) -> Any:
    """Everything that must hold of one call, whatever the architecture."""
    plain = case.forward()
    before = snapshot(case.model)
    lrp = rp.LRP(case.model, preset)

    explanation = lrp.explain(*case.args, target=case.target, **case.kwargs)

    assert_same_state(before, snapshot(case.model))
    expected, found = explained(case, plain), explained(case, explanation.output)
    # to rounding where torch itself picks another kernel because nothing asks for a gradient
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad
    parts = leaves(explanation.relevance)
    assert parts, "nothing was explained"
    for part in parts:
        assert torch.isfinite(part).all()
        assert not part.requires_grad
    assert any(part.abs().max() > 0 for part in parts), "all relevance is zero"
    scale = max(sum(part.abs().sum().item() for part in parts), expected.abs().sum().item())
    assert abs(explanation.audit.unexplained) < SHARE * scale, explanation.audit
    again = lrp.explain(*case.args, target=case.target, **case.kwargs)
    for first, second in zip(parts, leaves(again.relevance), strict=True):
        assert torch.equal(first, second), "the same call gave another result"
    return explanation


@pytest.mark.parametrize("name", FACTORIES)
def test_with_its_preset(name: str) -> None:
    check(make(name), CLASS_PRESETS.get(name, rp.AttnLRP)())


@pytest.mark.parametrize("name", FACTORIES)
def test_without_a_preset(name: str) -> None:
    """`LRP(model)` chooses by what the plan sees and says so."""
    explanation = check(make(name), None)
    assert "preset" in str(explanation.plan).lower()


@pytest.mark.parametrize("name", FACTORIES)
def test_with_constant_attention(name: str) -> None:
    check(make(name), rp.CPLRP())


@pytest.mark.parametrize("name", MORE)
def test_further_classes(name: str) -> None:
    check(make(name), rp.AttnLRP())


EAGER = ["bert", "gpt2", "gpt_neox", "llama", "gemma3", "mistral", "t5", "whisper", "vit", "clip"]


@pytest.mark.parametrize("name", EAGER)
def test_attention_kernels_agree(name: str) -> None:
    """The fused kernel and matmul-softmax-matmul give the same relevance."""
    found = []
    for attention in ("sdpa", "eager"):
        case = make(name)
        case.model.set_attn_implementation(attention)
        found.append(leaves(check(case, rp.AttnLRP()).relevance))
    for fused, eager in zip(*found, strict=True):
        scale = fused.abs().max().item()
        assert (fused - eager).abs().max().item() < 2e-5 * scale


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "mixtral", "vit", "swin"])
def test_batch_equals_singles(name: str) -> None:
    """A batch gives each sample the relevance that it has alone."""
    case = make(name)
    kwargs = {}
    for key, value in case.kwargs.items():
        other = value.flip(-1)
        kwargs[key] = torch.cat([value, other])
    lrp = rp.LRP(case.model, rp.AttnLRP())
    together = leaves(lrp.explain(target=case.target, **kwargs).relevance)
    for i in range(2):
        alone = leaves(lrp.explain(target=case.target, **{k: v[i : i + 1] for k, v in kwargs.items()}).relevance)
        for batch, single in zip(together, alone, strict=True):
            scale = single.abs().max().item()
            assert (batch[i] - single[0]).abs().max().item() < 2e-5 * max(scale, 1e-12)


def test_padding_takes_no_relevance() -> None:
    """Masked tokens of the second sentence carry nothing, and the rest is what it is without them."""
    case = make("bert")
    ids = zoo_models.ids(batch=2)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    lrp = rp.LRP(case.model, rp.AttnLRP())
    (padded,) = leaves(lrp.explain(input_ids=ids, attention_mask=mask, target=case.target).relevance)
    (short,) = leaves(lrp.explain(input_ids=ids[1:, :5], target=case.target).relevance)
    assert padded[1, 5:].abs().max() < 1e-6 * padded.abs().max()
    torch.testing.assert_close(padded[1, :5], short[0], rtol=1e-4, atol=1e-5 * short.abs().max().item())


def test_a_span_of_tokens() -> None:
    """Several output tokens at once: the sum of their explanations."""
    case = make("gpt2")
    lrp = rp.LRP(case.model, rp.AttnLRP())

    def relevance(*positions: int) -> Tensor:
        def target(output: Any) -> Tensor:
            return torch.stack([output.logits[:, p, 11] for p in positions], -1)

        return leaves(lrp.explain(target=target, **case.kwargs).relevance)[0]

    both = relevance(4, 6)
    torch.testing.assert_close(both, relevance(4) + relevance(6), rtol=1e-4, atol=1e-5 * both.abs().max().item())


def test_many_targets_from_one_forward() -> None:
    case = make("llama")
    lrp = rp.LRP(case.model, rp.AttnLRP())
    targets = [lambda output, p=p: output.logits[:, p, 11] for p in (3, 5, 6)]
    together = lrp.explain(targets=targets, **case.kwargs)
    assert len(together) == len(targets)
    for target, found in zip(targets, together, strict=True):
        alone = lrp.explain(target=target, **case.kwargs)
        for first, second in zip(leaves(found.relevance), leaves(alone.relevance), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    """Transformers checkpoint in training mode only; without dropout it computes the same."""
    case = make(name)
    expected = leaves(rp.LRP(case.model, rp.AttnLRP()).explain(target=case.target, **case.kwargs).relevance)
    model = case.model
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for attribute in ("dropout", "attention_dropout", "dropout_rate"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    # named anew in transformers 5
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})
    model.train()
    found = leaves(rp.LRP(model, rp.AttnLRP()).explain(target=case.target, use_cache=False, **case.kwargs).relevance)
    for first, second in zip(found, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6 * second.abs().max().item())


@pytest.mark.parametrize("name", ["llama", "bert", "vit", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """Half-precision models work, and agree with float32 as far as their numbers do."""
    case = make(name)
    expected = leaves(rp.LRP(case.model, rp.AttnLRP()).explain(target=case.target, **case.kwargs).relevance)
    case.model.to(dtype)
    kwargs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.kwargs.items()}
    found = leaves(rp.LRP(case.model, rp.AttnLRP()).explain(target=case.target, **kwargs).relevance)
    for half, full in zip(found, expected, strict=True):
        assert torch.isfinite(half).all()
        cosine = torch.nn.functional.cosine_similarity(half.double().flatten(), full.double().flatten(), 0)
        assert cosine > 0.99


def test_dropout_in_training_mode_is_refused() -> None:
    case = make("bert")
    case.model.train()
    with pytest.raises(rp.RelpropError, match=r"dropout with p = 0.1 .*module .bert.embeddings.dropout"):
        rp.LRP(case.model, rp.AttnLRP()).explain(target=case.target, **case.kwargs)


@pytest.mark.parametrize("target", [(-1, 100), (9, 1), 3, None], ids=str)
def test_target_outside_the_output(target: Any) -> None:
    """A token outside the vocabulary, a position outside the sequence, and what does not say which position."""
    case = make("gpt2")
    before = snapshot(case.model)
    with pytest.raises(rp.RelpropError, match="shape"):
        rp.LRP(case.model, rp.AttnLRP()).explain(target=target, **case.kwargs)
    assert_same_state(before, snapshot(case.model))


def test_a_tuple_names_position_and_token() -> None:
    case = make("gpt2")
    lrp = rp.LRP(case.model, rp.AttnLRP())
    by_tuple, by_function = (lrp.explain(target=t, **case.kwargs).relevance for t in ((-1, 11), case.target))
    assert torch.equal(by_tuple, by_function)


def test_a_prompt_in_the_cache_is_a_constant() -> None:
    """What was computed before the call takes its share as a constant, and the books say so."""
    case = make("llama")
    ids = case.kwargs["input_ids"]
    with torch.no_grad():
        cache = case.model(input_ids=ids[:, :-2], use_cache=True).past_key_values
    explanation = rp.LRP(case.model, rp.AttnLRP()).explain(
        input_ids=ids[:, -2:], past_key_values=cache, target=case.target
    )
    torch.testing.assert_close(explained(case, explanation.output), explained(case, case.forward()))
    assert explanation.relevance.shape[:2] == (1, 2)
    assert abs(explanation.audit.constants) > 1e-3
    assert abs(explanation.audit.unexplained) < 1e-4


def test_too_long_a_sequence() -> None:
    case = make("gpt2")
    with pytest.raises((rp.RelpropError, IndexError)):
        rp.LRP(case.model, rp.AttnLRP()).explain(input_ids=zoo_models.ids(40), target=case.target)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_full_size_of_torchvision(name: str) -> None:
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    with torch.no_grad():  # some heads start at zero
        for parameter in getattr(model, "heads", getattr(model, "head", model)).parameters():
            parameter.normal_(std=0.02)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    check(Case(model, 281, args=(image,)), rp.AttnLRP())


@pytest.mark.slow
def test_full_size_of_timm() -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", pretrained=False).eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    check(Case(model, 281, args=(image,)), rp.AttnLRP())


def test_sequence_longer_than_the_model_takes() -> None:
    """Positions and tokens beyond their tables are refused in words."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    lrp = rp.LRP(model, rp.AttnLRP())
    with pytest.raises(rp.InputError, match=r"'transformer.wpe' holds 32 rows .* longer than the model takes"):
        lrp.explain(input_ids=torch.zeros(1, 40, dtype=torch.long), target=(-1, 3))
    with pytest.raises(rp.InputError, match=r"'transformer.wte' holds 50 rows and was asked for 50 to 50"):
        lrp.explain(input_ids=torch.full((1, 4), 50), target=(-1, 3))


def test_vision_variant_reaches_feed_forward_layers_alone() -> None:
    case = make("vit")
    plan = rp.LRP(case.model, rp.AttnLRP(conv_gamma=0.25, feed_forward_gamma=0.05)).plan(*case.args, **case.kwargs)
    rules = {site.path: decision.rule for site, decision in plan if site.kind in ("linear", "conv")}
    dense = {path for path, rule in rules.items() if isinstance(rule, rp.Gamma) and rule.gamma == 0.05}
    assert dense and all(".mlp." in path for path in dense)
    assert any("attention" in path for path in rules)
