"""Every mistake is an error of one line that says what was seen, and nothing is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="language models come from transformers")

from relprop.errors import InputError, ModelStateError
from relprop.text import explain_generation, explain_next, explain_similarity
from relprop.text.inputs import longest
from tests.support.state import assert_same_state, snapshot
from tests.text import tiny
from transformers import RobertaConfig, RobertaModel, T5Config, T5ForConditionalGeneration

TEXT = "The capital of France is"
BYTES, PIECES = tiny.byte_level(), tiny.wordpiece()
LONG = "cold " * 80
SIZE = len(BYTES)

NEXT: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"text": ""}, "text is empty"),
    "blank": ({"text": " \n\t"}, "text is empty"),
    "marks alone": ({"text": "<|end|>"}, "empty once it is cut into tokens"),
    "no text": ({"text": 3}, "must be a string, or messages"),
    "no messages": ({"text": []}, "must be a string, or messages"),
    "too long": ({"text": LONG}, r"has \d+ tokens, but the model takes 64"),
    "token outside": ({"token": SIZE}, f"{SIZE} is outside the vocabulary: ids run from 0 to {SIZE - 1}"),
    "token negative": ({"token": -1}, "outside the vocabulary"),
    "token of several": ({"token": " Paris Rome"}, r"is \d tokens, not one: '.*' \(\d+\), "),
    "token empty": ({"token": ""}, "token is an empty string"),
    "token of no kind": ({"token": 1.5}, "token must be a string or an id, got float"),
    "token a bool": ({"token": True}, "got bool"),
    "contrast of several": ({"contrast": " Paris Rome"}, r"contrast ' Paris Rome' is \d tokens"),
    "contrast the same": ({"token": " the", "contrast": " the"}, "contrast is the token to explain itself, ' the'"),
    "other tokenizer": ({"tokenizer": "model"}, "tokenizer must be one of transformers, got str"),
}


@pytest.mark.parametrize("case", NEXT)
def test_next(case: str) -> None:
    given, message = NEXT[case]
    model = tiny.llama()
    before = snapshot(model)
    with pytest.raises(InputError, match=message):
        explain_next(model, **{"tokenizer": BYTES, "text": TEXT, **given})
    assert_same_state(before, snapshot(model))


def test_a_tokenizer_of_a_larger_vocabulary() -> None:
    model = tiny.llama(PIECES)
    with pytest.raises(InputError, match=rf"does not belong to the model: it has {len(BYTES)} tokens, the model's"):
        explain_next(model, BYTES, TEXT)


def test_a_tokenizer_of_a_much_smaller_vocabulary() -> None:
    model = tiny.llama()
    model.resize_token_embeddings(len(BYTES) + 3000)
    with pytest.raises(InputError, match=rf"it has {SIZE} tokens, the model's vocabulary {SIZE + 3000}"):
        explain_next(model, BYTES, TEXT)
    model.resize_token_embeddings(len(BYTES) + 48)  # rows that pad the vocabulary are no mistake
    explain_next(model, BYTES, TEXT)


def test_tokens_added_to_the_tokenizer_alone() -> None:
    import copy

    added = copy.deepcopy(BYTES)
    added.add_tokens(["<new>"])
    model = tiny.llama()
    explain_next(model, added, TEXT)  # as long as none of them is in the text
    with pytest.raises(InputError, match=rf"ids that the model does not have \({SIZE}; its vocabulary has {SIZE}\)"):
        explain_next(model, added, TEXT + "<new>")


def test_a_word_that_is_unknown() -> None:
    with pytest.raises(InputError, match=r"token '∰' is outside the vocabulary: it becomes '\[UNK\]'"):
        explain_next(tiny.llama(PIECES), PIECES, TEXT, "∰")


def test_the_spaced_token_is_offered() -> None:
    word = next(w[1:] for w in BYTES.get_vocab() if w.startswith("Ġ") and len(BYTES(w[1:])["input_ids"]) > 1)
    with pytest.raises(InputError, match=f"With a space before it, ' {word}' is one"):
        explain_next(tiny.llama(), BYTES, TEXT, word)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number from 1, got 0"),
        ({"max_new_tokens": 2.0}, "got 2.0"),
        ({"max_new_tokens": 60}, r"has \d+ tokens and 60 more are asked for, but the model takes 64 in all; \d+ would"),
        ({"prompt": LONG}, r"and 20 more are asked for, but the model takes 64 in all$"),
        ({"answer": ""}, "answer is empty"),
    ],
)
def test_generation(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain_generation(tiny.llama(), **{"tokenizer": BYTES, "prompt": TEXT, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": ""}, "the first text is empty"),
        ({"second": " "}, "the second text is empty"),
        ({"second": LONG}, r"the second text has \d+ tokens, but the model takes 64"),
        ({"first": None}, "the first text must be a string, got NoneType"),
        ({"pooling": "max"}, 'pooling must be "mean" or "first"'),
    ],
)
def test_similarity(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain_similarity(tiny.bert(), **{"tokenizer": PIECES, "first": "cold ice", "second": "thin ice", **given})


def test_models_of_another_kind() -> None:
    with pytest.raises(InputError, match="returns no last_hidden_state"):
        explain_similarity(tiny.llama(PIECES), PIECES, "cold", "ice")
    with pytest.raises(InputError, match="BertModel says no tokens"):
        explain_next(tiny.bert(), PIECES, TEXT)
    with pytest.raises(InputError, match="says no tokens"):
        explain_next(nn.Linear(2, 2), BYTES, TEXT)
    torch.manual_seed(0)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=400, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(InputError, match="with an encoder and writes with a decoder"):
        explain_generation(t5.eval(), BYTES, TEXT)


def test_positions_that_begin_after_the_padding() -> None:
    config = RobertaConfig(
        vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=34, pad_token_id=1,
    )  # fmt: skip
    assert longest(RobertaModel(config), BYTES) == 32


def test_a_model_that_drops_out_is_refused() -> None:
    model = tiny.gpt2().train()
    with pytest.raises(ModelStateError):
        explain_next(model, BYTES, TEXT)
    assert model.training
