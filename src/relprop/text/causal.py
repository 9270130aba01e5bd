"""Causal language models: which words made it say that, for one token or for a whole answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.explain import LRP, Explanation
from relprop.explain.forward import Request
from relprop.presets import AttnLRP
from relprop.progress import Progress, track
from relprop.text.inputs import accepts, check_ids, encode, find_token, write
from relprop.text.pieces import read_each, read_tokens
from relprop.text.result import GenerationExplanation, TextExplanation, leaf_notes

_CANDIDATES = 5


def explain_next(
    model: nn.Module,
    tokenizer: Any,
    text: str | Sequence[Mapping[str, str]],
    token: str | int | None = None,
    contrast: str | int | None = None,
    composite: Any = None,
) -> TextExplanation:
    """Which words made the model say what comes next.

    model      a causal model of transformers, as it is
    text       what it is to go on with; messages of a conversation are written by the tokenizer's template
    token      the next token to explain, by id or as it is written, its leading space too (``" Paris"``); by
               default the likeliest
    contrast   another token: explained is then by how much the first is preferred, the difference of the logits
    composite  the rules; by default AttnLRP, for state-space models the one that `LRP` chooses

    Raises:
        InputError: for an empty text or one too long, a tokenizer of another model, a token that is none.

    Example:
        explain_next(model, tokenizer, "The capital of France is").show()
    """
    _check_causal(model)
    given = encode(model, tokenizer, text)
    chosen = None if token is None else find_token(model, tokenizer, token)
    other = None if contrast is None else find_token(model, tokenizer, contrast, "contrast")
    settings = _settings(model, 1)
    if chosen is None:
        with torch.no_grad():
            chosen = int(model(input_ids=given.ids, **settings).logits[0, -1].argmax())
    target = chosen
    if other == target:
        raise InputError(f"contrast is the token to explain itself, {write(tokenizer, target)}")

    def pick(output: Any) -> Tensor:
        last = output.logits[:, -1]
        return last[:, target] if other is None else last[:, target] - last[:, other]

    with Progress(text="explaining"):
        explanation = _lrp(model, composite).explain(target=pick, input_ids=given.ids, **settings)
    logits = explanation.output.logits[0, -1].float()
    notes = leaf_notes(explanation.audit)
    if isinstance(token, str):
        notes += _spaced(model, tokenizer, token, target, logits)
    name = f"logit of {write(tokenizer, target)}"
    if other is not None:
        name += f" minus that of {write(tokenizer, other)}"
    return TextExplanation(
        given.tokens,
        token_relevance(explanation)[0],
        explanation.audit.seed,
        name,
        explanation.audit,
        explanation.plan,
        _candidates(tokenizer, logits, [target] if other is None else [target, other]),
        notes,
    )


def explain_generation(
    model: nn.Module,
    tokenizer: Any,
    prompt: str | Sequence[Mapping[str, str]],
    max_new_tokens: int = 20,
    answer: str | None = None,
    composite: Any = None,
) -> GenerationExplanation:
    """Let the model answer, and explain every token of the answer by the prompt and the tokens before it.

    The answer is the greedy one: the likeliest token each time, until the model ends it or it is long enough. Then one
    forward over prompt and answer, and one backward for each token of the answer.

    model           a causal model of transformers, as it is
    prompt          a string, or messages of a conversation, written by the tokenizer's template
    max_new_tokens  of the answer, at most
    answer          an answer to explain, instead of the model's own
    composite       the rules; by default AttnLRP, for state-space models the one that `LRP` chooses

    Raises:
        InputError: for an empty prompt, a prompt and answer too long for the model, a tokenizer of another model.
    """
    _check_causal(model)
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be a whole number from 1, got {max_new_tokens!r}")
    if answer is None:
        given = encode(model, tokenizer, prompt, "the prompt", room=max_new_tokens)
        said, finished = generate(model, tokenizer, given.ids, max_new_tokens)
    else:
        said = _answer_ids(model, tokenizer, answer)
        given = encode(model, tokenizer, prompt, "the prompt", room=len(said))
        finished = True
    start, count = given.ids.shape[1], len(said)
    # The last token of the answer explains nothing, so it is no input.
    ids = torch.cat([given.ids, given.ids.new_tensor([said[:-1]])], 1)
    settings = _settings(model, count)

    def pick(row: int) -> Any:
        return lambda output: output.logits[:, row - count, said[row]]

    matrix = torch.zeros(count, start + count)
    scores, probabilities, audits, plan = [], [], [], None
    request = Request(targets=tuple(pick(row) for row in range(count)), seed="value")
    found: Iterator[Explanation] = _lrp(model, composite).explain_each(request, (), {"input_ids": ids, **settings})
    for row, explanation in enumerate(track(found, count, "explaining the answer")):
        matrix[row, : ids.shape[1]] = token_relevance(explanation)[0]
        logits = explanation.output.logits[0, row - count].float()
        scores.append(explanation.audit.seed)
        probabilities.append(float(logits.softmax(-1)[said[row]]))
        audits.append(explanation.audit)
        plan = explanation.plan
    return GenerationExplanation(
        given.tokens + read_tokens(tokenizer, said),
        start,
        matrix,
        torch.tensor(scores),
        torch.tensor(probabilities),
        audits,
        plan,
        finished,
    )


def generate(model: nn.Module, tokenizer: Any, ids: Tensor, count: int) -> tuple[list[int], bool]:
    """The greedy answer, and whether the model ended it by itself.

    By plain forwards, with the model's own cache where it returns one: no setting that ships with a model, such as a
    repetition penalty, changes what it says.
    """
    ends = _end_ids(model, tokenizer)
    said: list[int] = []
    cache, fed = None, ids
    cached = accepts(model, "past_key_values") and accepts(model, "use_cache")
    with torch.no_grad():
        for _ in track(range(count), count, "writing the answer"):
            settings: dict[str, Any] = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
            if cached:
                settings |= {"use_cache": True, "past_key_values": cache}
            output = model(input_ids=fed, **settings)
            said.append(int(output.logits[0, -1].argmax()))
            if said[-1] in ends:
                return said, True
            cache = getattr(output, "past_key_values", None) if cached else None
            fed = ids.new_tensor([said[-1:]]) if cache is not None else torch.cat([ids, ids.new_tensor([said])], 1)
    return said, False


def token_relevance(explanation: Explanation) -> Tensor:
    """[N, T] of a model whose one explained input is ids."""
    relevance = explanation.per_token()
    if not isinstance(relevance, Tensor):
        raise InputError(
            f"the model embeds its ids in several ways ({', '.join(map(str, relevance))}): explain it with relprop.LRP"
        )
    return relevance.detach().float().cpu()


def _lrp(model: nn.Module, composite: Any) -> LRP:
    chosen = "mamba" in str(getattr(getattr(model, "config", None), "model_type", ""))
    return LRP(model, AttnLRP() if composite is None and not chosen else composite)


def _settings(model: nn.Module, keep: int) -> dict[str, Any]:
    """No cache, which is of no use in one forward; and logits for the last `keep` places alone."""
    settings: dict[str, Any] = {}
    if accepts(model, "use_cache"):
        settings["use_cache"] = False
    if accepts(model, "logits_to_keep"):
        settings["logits_to_keep"] = keep
    return settings


def _check_causal(model: nn.Module) -> None:
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{type(model).__name__} reads with an encoder and writes with a decoder: no causal model. "
            "Explain it with relprop.LRP(model).explain(input_ids=..., decoder_input_ids=..., target=(-1, token))"
        )
    if config is None or getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise InputError(f"{type(model).__name__} says no tokens: give a causal language model of transformers")


def _end_ids(model: nn.Module, tokenizer: Any) -> set[int]:
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        end = getattr(source, "eos_token_id", None)
        found |= {end} if isinstance(end, int) else set(end or ())
    return found


def _answer_ids(model: nn.Module, tokenizer: Any, answer: str) -> list[int]:
    if not isinstance(answer, str) or not answer:
        raise InputError("answer is empty: leave it out to let the model answer")
    ids = [int(i) for i in tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]]
    check_ids(model, ids)
    return ids


def _spaced(model: nn.Module, tokenizer: Any, token: str, target: int, logits: Tensor) -> tuple[str, ...]:
    """A word to those who gave a token without the space that it most likely has before it."""
    try:
        spaced = find_token(model, tokenizer, " " + token)
    except InputError:
        return ()
    if spaced == target or float(logits[spaced]) <= float(logits[target]):
        return ()
    return (f"with a space before it, {' ' + token!r}, it is likelier: that is another token",)


def _candidates(tokenizer: Any, logits: Tensor, wanted: Sequence[int]) -> tuple[tuple[str, float], ...]:
    """The likeliest tokens and the ones asked for, with their probabilities."""
    shares = logits.softmax(-1)
    best = shares.topk(min(_CANDIDATES, len(shares))).indices.tolist()
    chosen = sorted({*best, *wanted}, key=lambda i: -float(shares[i]))
    return tuple((t.text or t.piece, float(shares[t.id])) for t in read_each(tokenizer, chosen))
