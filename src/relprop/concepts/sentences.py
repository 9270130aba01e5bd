"""BiLRP of two texts: which words of the one, with which of the other, make their vectors alike."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from relprop.concepts.similarity import PairRelevance, bilrp
from relprop.errors import InputError
from relprop.explain import LRP
from relprop.presets import AttnLRP
from relprop.text.inputs import accepts, encode
from relprop.text.pieces import merge


def bilrp_texts(
    model: nn.Module,
    tokenizer: Any,
    first: str,
    second: str,
    *,
    pooling: Literal["mean", "first"] = "mean",
    composite: Any = None,
    by: Literal["words", "tokens"] = "words",
    **options: Any,
) -> PairRelevance:
    """Which words of two texts make their vectors alike: cosine similarity, by pairs of words.

    model      an encoder of transformers that returns `last_hidden_state`, as it is
    pooling    how one vector is made of the tokens' ones: their "mean", or the "first" one's
    composite  the rules; by default AttnLRP
    by         "words", or the tokenizer's pieces
    options    of `bilrp`: similarity (default "cosine"), project, method, batch_size

    Raises:
        InputError: for an empty text or one too long, a tokenizer of another model, a model that is no encoder.
        MissingExtraError: without transformers.
    """
    if pooling not in ("mean", "first"):
        raise InputError(f'pooling must be "mean" or "first", got {pooling!r}')
    if by not in ("words", "tokens"):
        raise InputError(f'by must be "words" or "tokens", got {by!r}')

    def embed(output: Any) -> Tensor:
        states = getattr(output, "last_hidden_state", None)
        if states is None:
            raise InputError(f"{type(model).__name__} returns no last_hidden_state: give an encoder")
        return states.mean(1) if pooling == "mean" else states[:, 0]

    texts = [encode(model, tokenizer, t, f"the {n} text") for t, n in ((first, "first"), (second, "second"))]
    settings = {"use_cache": False} if accepts(model, "use_cache") else {}
    options = {"similarity": "cosine", "batch_size": 128, **options}
    lrp = LRP(model, AttnLRP() if composite is None else composite)
    ids = [{"input_ids": t.ids, **settings} for t in texts]
    pair = bilrp(lrp, ids[0], ids[1], embed=embed, **options)
    if by == "tokens":
        pair.labels = ([t.text.strip() or t.piece for t in texts[0].tokens],
                       [t.text.strip() or t.piece for t in texts[1].tokens])  # fmt: skip
        return pair
    words = [merge(t.tokens, [0.0] * len(t.tokens)) for t in texts]
    sums = [torch.zeros(len(w), len(t.tokens)).to(pair.matrix) for w, t in zip(words, texts, strict=True)]
    for rows, found in zip(sums, words, strict=True):
        for row, word in zip(rows, found, strict=True):
            row[word.start : word.stop] = 1
    # errors of a word's tokens are not independent: their sum bounds that of the word
    error = None if pair.error is None else sums[0] @ pair.error @ sums[1].T
    labels = ([w.text for w in words[0]], [w.text for w in words[1]])
    grids = ((len(words[0]),), (len(words[1]),))
    return PairRelevance(sums[0] @ pair.matrix @ sums[1].T, pair.similarity, grids, error, labels)
