"""Tokens merged into words as people write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="tokenizers come from transformers")

from relprop.text.pieces import Token, find_spelling, merge, read_each, read_tokens
from tests.text import tiny

SPELLINGS = {
    "bytes": tiny.byte_level,
    "wordpiece": tiny.wordpiece,
    "sentencepiece": tiny.sentencepiece,
    "end-of-word": tiny.end_of_word,
}


def tokens_of(tokenizer: Any, text: str, offsets: bool = True) -> list[Token]:
    found = tokenizer(text, return_offsets_mapping=True)
    return read_tokens(
        tokenizer, found["input_ids"], text if offsets else None, found["offset_mapping"] if offsets else None
    )


def words(tokenizer: Any, text: str, offsets: bool = True) -> list[str]:
    tokens = tokens_of(tokenizer, text, offsets)
    return [w.text for w in merge(tokens, [0.0] * len(tokens)) if not w.special]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_spelling_is_read_off_the_vocabulary(spelling: str) -> None:
    assert find_spelling(SPELLINGS[spelling]()) == spelling


@pytest.mark.parametrize("offsets", [True, False], ids=["in the text", "from pieces alone"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pieces_become_words(spelling: str, offsets: bool) -> None:
    made = SPELLINGS[spelling]()
    found = words(made, "the capital of Spain is coldest", offsets)
    wanted = "the capital of Spain is coldest"
    if spelling == "wordpiece" and not offsets:
        wanted = wanted.lower()  # the pieces are all that is known, and they have no capitals
    assert found == wanted.split()
    assert len(made.tokenize("the capital of Spain is coldest")) > 6, "some word has several pieces"


def test_words_keep_their_capitals_where_the_text_is_known() -> None:
    assert words(tiny.wordpiece(), "The CAPITAL of Frânce") == ["The", "CAPITAL", "of", "Frânce"]


@pytest.mark.parametrize("spelling", ["bytes", "wordpiece", "sentencepiece"])
def test_one_word_or_several(spelling: str) -> None:
    made = SPELLINGS[spelling]()
    assert words(made, "it's cold, isn't it? 2024") == ["it's", "cold", ",", "isn't", "it", "?", "2024"]
    assert words(made, "said 'cold'.") == ["said", "'", "cold", "'", "."]
    assert words(made, "x=f(a_b)")[-4:] == ["f", "(", "a_b", ")"] or spelling == "wordpiece"


def test_characters_of_several_tokens_stay_whole() -> None:
    text = "日本 go 👩‍👧 to\u0301 é"
    for offsets in (True, False):
        assert words(tiny.byte_level(), text, offsets) == ["日", "本", "go", "👩‍👧", "to\u0301", "é"]
    assert words(tiny.sentencepiece(), "go 本 to", False) == ["go", "本", "to"]


def test_white_space_of_its_own_is_seen_and_kept() -> None:
    tokens = [Token(0, "a", "a"), Token(1, "Ċ", "\n\n"), Token(2, "ĉ", "\t"), Token(3, "b", "b"), Token(4, "Ġ", " ")]
    found = merge(tokens, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert [(w.text, w.before) for w in found] == [("a", ""), ("↵↵", ""), ("⇥", "\n\n"), ("b", ""), ("␣", "")]
    one = merge([Token(0, "Ġ", " "), Token(1, "2", "2"), Token(2, "0", "0")], [1.0, 2.0, 3.0])
    assert [(w.before, w.text, w.relevance) for w in one] == [(" ", "20", 6.0)]


def test_special_tokens_are_marked_and_stand_alone() -> None:
    found = tokens_of(tiny.wordpiece(), "cold")
    assert [t.special for t in found] == [True, *[False] * (len(found) - 2), True]
    made = merge(found, [1.0] * len(found))
    assert [(w.text, w.special) for w in made] == [("[CLS]", True), ("cold", False), ("[SEP]", True)]
    inside = tokens_of(tiny.byte_level(), "a<|user|>b<|end|>", offsets=False)
    assert [w.text for w in merge(inside, [0.0] * len(inside)) if w.special] == ["<|user|>", "<|end|>"]


def test_the_unknown_token_shows_what_was_written() -> None:
    assert words(tiny.wordpiece(), "cold ∰ ice") == ["cold", "∰", "ice"]
    assert words(tiny.wordpiece(), "cold ∰ ice", offsets=False) == ["cold", "[UNK]", "ice"]


def test_a_word_begins_at_a_break() -> None:
    tokens = [Token(0, "Par", "Par"), Token(1, "is", "is")]
    assert [w.text for w in merge(tokens, [1.0, 2.0])] == ["Paris"]
    assert [w.text for w in merge(tokens, [1.0, 2.0], breaks=(1,))] == ["Par", "is"]


def test_tokens_read_apart_do_not_join() -> None:
    made = tiny.byte_level()
    ids = made("é")["input_ids"]
    assert len(ids) == 2
    assert [t.text for t in read_each(made, ids)] == ["�", "�"]
    assert "".join(t.text for t in read_tokens(made, ids)) == "é"


def test_bytes_that_are_no_text() -> None:
    made = tiny.byte_level()
    ids = made("日")["input_ids"]
    end = made.convert_tokens_to_ids("<|end|>")
    found = read_tokens(made, [*ids[:1], end, *ids])
    assert [w.text for w in merge(found, [0.0] * len(found))] == ["�", "<|end|>", "日"]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_nothing_is_lost_or_added(text: str) -> None:
    made = tiny.byte_level()
    for offsets in (True, False):
        tokens = tokens_of(made, text, offsets)
        assert "".join(t.text for t in tokens) == text
        torch.manual_seed(0)
        relevance = torch.randn(len(tokens), dtype=torch.float64).tolist()
        found = merge(tokens, relevance)
        covered = [i for w in found for i in range(w.start, w.stop)]
        assert covered == list(range(len(tokens)))
        for word in found:
            assert word.relevance == pytest.approx(sum(relevance[word.start : word.stop]), abs=1e-12)
            assert word.text and not word.text[0].isspace()
