"""Two texts, their cosine and what each word has to do with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", reason="sentence encoders come from transformers")

from relprop.text import explain_similarity
from tests.support.state import assert_same_state, snapshot
from tests.text import tiny

A, B = "A man is eating bread.", "Someone eats food and drinks cold water"


def cosine(model: Any, pooling: str) -> float:
    tokenizer = tiny.wordpiece()
    states = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0] for t in (A, B)]
    first, second = (s.mean(0) if pooling == "mean" else s[0] for s in states)
    return F.cosine_similarity(first, second, dim=0).item()


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_score_is_the_cosine_and_both_texts_share_it(pooling: Any) -> None:
    model = tiny.bert()
    before = snapshot(model)
    found = explain_similarity(model, tiny.wordpiece(), A, B, pooling)
    assert_same_state(before, snapshot(model))
    assert found.score == pytest.approx(cosine(model, pooling), abs=1e-5)
    inputs = found.audit.inputs
    assert found.first.relevance.sum() == pytest.approx(inputs["first"], abs=1e-5)
    assert found.second.relevance.sum() == pytest.approx(inputs["second"], abs=1e-5)
    assert found.audit.balanced and found.first.relevance.any() and found.second.relevance.any()
    assert [w.text for w in found.first.words] == ["[CLS]", *A[:-1].split(), ".", "[SEP]"]


def test_each_text_gets_half_before_anything_is_absorbed() -> None:
    """Without layers there is nothing that absorbs: the product of the two vectors shares by halves."""
    model = tiny.bert()
    model.encoder.layer = model.encoder.layer[:0]
    with torch.no_grad():
        for table in (model.embeddings.position_embeddings, model.embeddings.token_type_embeddings):
            table.weight.zero_()
    model.embeddings.LayerNorm = torch.nn.Identity()
    found = explain_similarity(model, tiny.wordpiece(), A, B)
    for one in (found.first, found.second):
        assert one.relevance.sum() == pytest.approx(found.score / 2, rel=1e-4)
    # by hand: a token's share is its own vector's product with the other text's direction
    ids = [tiny.wordpiece()(t, return_tensors="pt")["input_ids"][0] for t in (A, B)]
    vectors = [model.embeddings.word_embeddings.weight[i] for i in ids]
    means = [v.mean(0) for v in vectors]
    wanted = vectors[0] / len(ids[0]) @ means[1] / (means[0].norm() * means[1].norm()) / 2
    torch.testing.assert_close(found.first.relevance, wanted.detach(), rtol=1e-4, atol=1e-6)


def test_the_order_of_the_texts_does_not_matter() -> None:
    one = explain_similarity(tiny.bert(), tiny.wordpiece(), A, B)
    other = explain_similarity(tiny.bert(), tiny.wordpiece(), B, A)
    assert one.score == pytest.approx(other.score, abs=1e-6)
    torch.testing.assert_close(one.first.relevance, other.second.relevance, rtol=1e-3, atol=1e-6)


def test_modules_keep_their_own_modes() -> None:
    model = tiny.bert()
    model.encoder.layer[0].train()  # odd, but the user's own
    model.encoder.layer[0].attention.self.dropout.p = 0.0
    for module in model.encoder.layer[0].modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = [module.training for module in model.modules()]
    explain_similarity(model, tiny.wordpiece(), A, B)
    assert [module.training for module in model.modules()] == before and True in before and False in before
