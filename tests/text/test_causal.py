"""What a causal model says next, and a whole answer, against the engine's own calls and against prefixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="causal models come from transformers")

import relprop as rp
from relprop.text import explain_generation, explain_next
from relprop.text.causal import generate
from tests.support.state import assert_same_state, snapshot
from tests.text import tiny

TEXT = "The capital of France is"
MODELS = {"llama": tiny.llama, "gpt2": tiny.gpt2}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    scale = wanted.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * scale)


def test_the_next_token_is_explained_as_the_engine_does(model: Any) -> None:
    tokenizer = tiny.byte_level()
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    logits = model(ids).logits[0, -1].detach()
    before = snapshot(model)

    found = explain_next(model, tokenizer, TEXT)

    assert_same_state(before, snapshot(model))
    target = int(logits.argmax())
    wanted = rp.LRP(model, rp.AttnLRP()).explain(ids, target=(-1, target))
    close(found.relevance, wanted.per_token()[0])
    assert found.score == pytest.approx(logits[target].item(), rel=1e-4)
    assert found.audit is not None and found.audit.balanced
    assert [w.text for w in found.words] == TEXT.split()
    assert sum(w.relevance for w in found.words) == pytest.approx(found.relevance.sum().item(), rel=1e-4, abs=1e-5)
    assert found.candidates[0][1] == pytest.approx(logits.softmax(-1).max().item(), rel=1e-4)


@pytest.mark.parametrize("token", [" the", 300], ids=["as written", "by id"])
def test_a_token_of_ones_own(token: str | int) -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    index = token if isinstance(token, int) else tokenizer(token)["input_ids"][0]
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    found = explain_next(model, tokenizer, TEXT, token)
    close(found.relevance, rp.LRP(model, rp.AttnLRP()).explain(ids, target=(-1, index)).per_token()[0])
    assert found.score == pytest.approx(model(ids).logits[0, -1, index].item(), rel=1e-4)


def test_a_contrast_is_the_difference_of_both() -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    first, second = (explain_next(model, tokenizer, TEXT, token) for token in (" the", " is"))
    both = explain_next(model, tokenizer, TEXT, " the", contrast=" is")
    close(both.relevance, first.relevance - second.relevance)  # relevance is linear in the seed
    assert both.score == pytest.approx(first.score - second.score, rel=1e-4)
    assert "minus" in both.target


def test_a_preset_of_ones_own() -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    target = int(model(ids).logits[0, -1].argmax())
    found = explain_next(model, tokenizer, TEXT, composite=rp.CPLRP())
    wanted = rp.LRP(model, rp.CPLRP()).explain(ids, target=(-1, target)).per_token()[0]
    close(found.relevance, wanted)
    assert (found.relevance - explain_next(model, tokenizer, TEXT).relevance).abs().max() > 1e-3


def test_the_answer_is_the_greedy_one(model: Any) -> None:
    tokenizer = tiny.byte_level()
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    said, finished = generate(model, tokenizer, ids, 6)
    wanted, given = [], ids
    for _ in range(6):  # without any cache
        wanted.append(int(model(given, use_cache=False).logits[0, -1].argmax()))
        given = torch.cat([given, torch.tensor([wanted[-1:]])], 1)
    assert said == wanted and not finished
    own = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert own[0, ids.shape[1] :].tolist() == said


def test_every_row_is_the_explanation_of_its_prefix(model: Any) -> None:
    """What a causal model says at a place does not depend on what comes after it."""
    tokenizer = tiny.byte_level()
    before = snapshot(model)
    found = explain_generation(model, tokenizer, TEXT, max_new_tokens=5)
    assert_same_state(before, snapshot(model))
    ids = [t.id for t in found.tokens]
    assert found.matrix.shape == (5, len(ids)) and found.start == len(ids) - 5
    for row in range(5):
        stop = found.start + row
        prefix = torch.tensor([ids[:stop]])
        wanted = rp.LRP(model, rp.AttnLRP()).explain(prefix, target=(-1, ids[stop]))
        close(found.matrix[row, :stop], wanted.per_token()[0])
        assert not found.matrix[row, stop:].any(), "relevance on what had not been said yet"
        assert found.audits[row].balanced
        assert found.scores[row] == pytest.approx(wanted.audit.seed, rel=1e-4)
    logits = model(torch.tensor([ids])).logits[0]
    for row in range(5):
        share = logits[found.start + row - 1].softmax(-1)[ids[found.start + row]].item()
        assert found.probabilities[row] == pytest.approx(share, rel=1e-3)


def test_one_forward_for_all_tokens_of_an_answer() -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = explain_generation(model, tokenizer, TEXT, answer=" Paris and Rome.")
    finally:
        handle.remove()
    assert len(calls) == 1 and len(found.audits) == len(tokenizer(" Paris and Rome.")["input_ids"])
    assert found.answer == " Paris and Rome." and found.prompt == TEXT


def test_words_of_an_answer_sum_its_tokens() -> None:
    found = explain_generation(tiny.llama(), tiny.byte_level(), TEXT, answer=" Paris, Madrid")
    matrix = found.word_matrix()
    assert [w.text for w in found.answer_words] == ["Paris", ",", "Madrid"]
    assert matrix.shape == (3, len(found.words))
    row, column = found.answer_words[2], found.words[1]
    part = found.matrix[row.start - found.start : row.stop - found.start, column.start : column.stop]
    assert matrix[2, 1] == pytest.approx(part.sum().item(), rel=1e-5)
    assert matrix.sum() == pytest.approx(found.matrix.sum().item(), rel=1e-4, abs=1e-4)
    one = found.token(-1)
    close(one.relevance, found.matrix[-1, : len(found.tokens) - 1])
    assert one.audit is found.audits[-1]


def test_the_model_may_end_its_answer() -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    said, _ = generate(model, tokenizer, ids, 4)
    model.config.eos_token_id = said[1]
    found = explain_generation(model, tokenizer, TEXT, max_new_tokens=9)
    assert found.finished and [t.id for t in found.tokens[found.start :]] == said[:2]


def test_a_conversation_is_written_by_the_template() -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    messages = [{"role": "user", "content": "is it cold"}]
    found = explain_next(model, tokenizer, messages)
    assert [w.text for w in found.words] == ["<|user|>", "is", "it", "cold", "<|end|>"]
    assert [w.special for w in found.words] == [True, False, False, False, True]


def test_a_space_forgotten_is_noticed() -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    whole = [t for t in ("the", "is", "and", "ca", "old") if len(tokenizer(t)["input_ids"]) == 1]
    noted = []
    for token in whole:
        spaced = tokenizer(" " + token)["input_ids"]
        if len(spaced) == 1:
            logits = model(tokenizer(TEXT, return_tensors="pt")["input_ids"]).logits[0, -1]
            likelier = bool(logits[spaced[0]] > logits[tokenizer(token)["input_ids"][0]])
            said = any("space before it" in note for note in explain_next(model, tokenizer, TEXT, token).notes)
            assert said == likelier
            noted.append(said)
    assert noted, "no word of the vocabulary comes with and without a space"
