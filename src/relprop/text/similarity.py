"""Sentence encoders: why two texts are alike."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.explain import LRP
from relprop.presets import AttnLRP
from relprop.progress import Progress
from relprop.text.inputs import accepts, encode
from relprop.text.result import SimilarityExplanation, TextExplanation, leaf_notes

Pooling = Literal["mean", "first"]


class _Cosine(nn.Module):
    """The cosine of the angle between the vectors that an encoder gives two texts."""

    def __init__(self, encoder: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def embed(self, ids: Tensor) -> Tensor:
        settings = {"use_cache": False} if accepts(self.encoder, "use_cache") else {}
        states = self.encoder(ids, **settings).last_hidden_state
        return F.normalize(states.mean(1) if self.pooling == "mean" else states[:, 0], dim=-1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (self.embed(first) * self.embed(second)).sum(-1)


def explain_similarity(
    model: nn.Module,
    tokenizer: Any,
    first: str,
    second: str,
    pooling: Pooling = "mean",
    composite: Any = None,
) -> SimilarityExplanation:
    """Which words of two texts make them alike, and which set them apart.

    The score is the cosine of the two texts' vectors. It is a product of both, so each text gets half of it, shared
    among its words; what a word takes away is negative.

    model      an encoder of transformers that returns `last_hidden_state`, as it is
    pooling    how one vector is made of the tokens' ones: their "mean", or the "first" one's
    composite  the rules; by default AttnLRP

    Raises:
        InputError: for an empty text or one too long, a tokenizer of another model, a model that is no encoder.
    """
    if pooling not in ("mean", "first"):
        raise InputError(f'pooling must be "mean" or "first", got {pooling!r}')
    for name, text in (("the first text", first), ("the second text", second)):
        if not isinstance(text, str):
            raise InputError(f"{name} must be a string, got {type(text).__name__}")
    one = encode(model, tokenizer, first, "the first text")
    two = encode(model, tokenizer, second, "the second text")
    with torch.no_grad():
        states = getattr(model(one.ids), "last_hidden_state", None)
    if states is None:
        raise InputError(f"{type(model).__name__} returns no last_hidden_state: give an encoder, as AutoModel loads it")
    whole = _Cosine(model, pooling)
    whole.training = model.training  # `train()` would reach into the model
    with Progress(text="explaining"):
        explanation = LRP(whole, AttnLRP() if composite is None else composite).explain(first=one.ids, second=two.ids)
    parts = [part[0].detach().float().cpu() for part in explanation.per_token().values()]
    score = explanation.audit.seed
    return SimilarityExplanation(
        TextExplanation(one.tokens, parts[0], score, "similarity"),
        TextExplanation(two.tokens, parts[1], score, "similarity"),
        score,
        explanation.audit,
        explanation.plan,
        leaf_notes(explanation.audit),
    )
