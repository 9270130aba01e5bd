"""From a text to ids that the model takes, checked before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relprop.errors import InputError
from relprop.text.pieces import Token, read_each, read_tokens

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
_UNBOUNDED = 10**8  # tokenizers without a limit state absurd ones
_PADDED = 1024  # rows that embeddings have beyond the vocabulary, for the hardware's sake
_SHOWN = 8


@dataclass(frozen=True)
class Encoded:
    """A text as the model takes it.

    ids     [1, T], on the model's device
    tokens  what each of them is
    """

    ids: Tensor
    tokens: list[Token]


def encode(
    model: nn.Module, tokenizer: Any, text: str | Sequence[Mapping[str, str]], what: str = "text", room: int = 0
) -> Encoded:
    """The ids of a text, or of a conversation by the tokenizer's template.

    what  the text's name in messages
    room  tokens that must still fit after it

    Raises:
        InputError: for an empty text, a tokenizer of another model, or a text too long for the model.
    """
    check_pair(model, tokenizer)
    said: str = text if isinstance(text, str) else _apply_template(tokenizer, text, what)
    if not said.strip():
        raise InputError(f"{what} is empty: there is nothing to explain")
    # Where each token lies in the text, if the tokenizer can tell; a template writes its special tokens itself.
    where = {"return_offsets_mapping": True} if getattr(tokenizer, "is_fast", False) else {}
    found = tokenizer(said, add_special_tokens=said is text, verbose=False, **where)
    ids = [int(i) for i in found["input_ids"]]
    tokens = read_tokens(tokenizer, ids, said, found["offset_mapping"] if where else None)
    if not any(not token.special for token in tokens):
        raise InputError(f"{what} is empty once it is cut into tokens: there is nothing to explain")
    check_ids(model, ids)
    check_length(model, tokenizer, len(ids), room, what)
    return Encoded(torch.tensor([ids], device=device_of(model)), tokens)


def _apply_template(tokenizer: Any, messages: Any, what: str) -> str:
    if not isinstance(messages, Sequence) or not all(isinstance(m, Mapping) for m in messages) or not messages:
        raise InputError(
            f"{what} must be a string, or messages such as [{{'role': 'user', 'content': '...'}}]; "
            f"got {type(messages).__name__}"
        )
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the tokenizer has no template for conversations: give the prompt as a string")
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's embeddings are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def vocabulary_size(model: nn.Module) -> int:
    """How many ids the model takes.

    Raises:
        InputError: where it takes none.
    """
    embed = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(embed, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise InputError(f"{type(model).__name__} embeds no token ids: give a language model of transformers")
    return int(weight.shape[0])


def check_pair(model: nn.Module, tokenizer: Any) -> None:
    """Whether a tokenizer can belong to a model: their vocabularies have the same size, but for padded rows.

    Raises:
        InputError: with both sizes.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise InputError(f"tokenizer must be one of transformers, got {type(tokenizer).__name__}")
    rows = vocabulary_size(model)
    own, total = int(getattr(tokenizer, "vocab_size", 0) or 0), len(tokenizer)
    if own > rows or rows - total > max(_PADDED, rows // 20):
        raise InputError(
            f"the tokenizer does not belong to the model: it has {total} tokens, the model's vocabulary {rows}. Load "
            "both from the same place"
        )


def check_ids(model: nn.Module, ids: Sequence[int]) -> None:
    """Raise for ids that the model has no row for."""
    rows = vocabulary_size(model)
    outside = sorted({i for i in ids if not 0 <= i < rows})
    if outside:
        raise InputError(
            f"the tokenizer gives ids that the model does not have ({', '.join(map(str, outside[:_SHOWN]))}; its "
            f"vocabulary has {rows}): it does not belong to the model, or the model was not resized for added tokens"
        )


def longest(model: nn.Module, tokenizer: Any) -> int | None:
    """How many tokens the model takes; None where nothing says so."""
    limits = []
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    if config is not None and not getattr(config, "relative_attention_num_buckets", None):
        for name in _LENGTHS:
            value = getattr(config, name, None)
            if isinstance(value, int) and value > 0:
                limits.append(value)
    for name, module in model.named_modules():
        # Position tables that begin after the padding index, as RoBERTa's do, have that many places less.
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    said = getattr(tokenizer, "model_max_length", None)
    if isinstance(said, int) and 0 < said < _UNBOUNDED:
        limits.append(said)
    return min(limits) if limits else None


def check_length(model: nn.Module, tokenizer: Any, count: int, room: int, what: str) -> None:
    """Raise for more tokens than the model takes."""
    limit = longest(model, tokenizer)
    if limit is None or count + room <= limit:
        return
    if room:
        fits = f"; {limit - count} would fit" if limit > count else ""
        raise InputError(
            f"{what} has {count} tokens and {room} more are asked for, but the model takes {limit} in all{fits}"
        )
    raise InputError(f"{what} has {count} tokens, but the model takes {limit}: shorten it, or explain it in parts")


def find_token(model: nn.Module, tokenizer: Any, wanted: str | int, what: str = "token") -> int:
    """The id of a token that is given by its id or as it is written, its leading space too.

    Raises:
        InputError: for an id outside the vocabulary, and for what is no token or several (which).
    """
    rows = vocabulary_size(model)
    if isinstance(wanted, bool) or not isinstance(wanted, (str, int)):
        raise InputError(f"{what} must be a string or an id, got {type(wanted).__name__}")
    if isinstance(wanted, int):
        if not 0 <= wanted < rows:
            raise InputError(f"{what} {wanted} is outside the vocabulary: ids run from 0 to {rows - 1}")
        return wanted
    if not wanted:
        raise InputError(f"{what} is an empty string: give a token as it is written, such as ' Paris'")
    index = _whole(tokenizer, wanted)
    if index is not None:
        check_ids(model, [index])
        return index
    ids = tokenizer(wanted, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise InputError(f"{what} {wanted!r} is no token of the vocabulary")
    named = ", ".join(f"{token.text or token.piece!r} ({token.id})" for token in read_each(tokenizer, ids[:_SHOWN]))
    spaced = _whole(tokenizer, " " + wanted) if not wanted.startswith(" ") else None
    hint = f". With a space before it, {' ' + wanted!r} is one" if spaced is not None else ""
    if len(ids) == 1:  # the unknown token
        raise InputError(f"{what} {wanted!r} is outside the vocabulary: it becomes {named}{hint}")
    raise InputError(
        f"{what} {wanted!r} is {len(ids)} tokens, not one: {named}{hint or '. Give one of them, by its id'}"
    )


def _whole(tokenizer: Any, wanted: str) -> int | None:
    """The token that a string is, if it is one and not the unknown one."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = tokenizer(wanted, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) == 1 and (ids[0] != unknown or wanted == getattr(tokenizer, "unk_token", None)):
        return int(ids[0])
    index = tokenizer.get_vocab().get(wanted)  # an entry as the vocabulary writes it
    return None if index is None else int(index)


def write(tokenizer: Any, index: int) -> str:
    """A token as people write it, in quotes, so that its leading space is seen."""
    token = read_each(tokenizer, [index])[0]
    return repr(token.text or token.piece)


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the model's forward takes an argument of this name."""
    return name in inspect.signature(model.forward).parameters
