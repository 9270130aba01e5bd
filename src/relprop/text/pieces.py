"""From a vocabulary's pieces to words as people write them.

A tokenizer cuts text into entries of its vocabulary, written in one of four ways: byte-level (``Ġ`` for a space,
every byte a letter of its own), sentencepiece (``▁`` for a space, ``<0xE2>`` for a byte), wordpiece (``##`` goes
on a word) and end-of-word (``</w>``). Which one it is is read off the vocabulary itself. Where the text is at
hand and the tokenizer says where in it each token lies, words are shown as they were written, capitals and all.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from relprop.render.text import Word

Spelling = Literal["bytes", "sentencepiece", "wordpiece", "end-of-word", "plain"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_JOINER = "\u200d"
_APOSTROPHES = ("'", "\u2019")
# Scripts that are written without spaces: there the tokens are the words.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x31FF),  # radicals, kana, bopomofo
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True)
class Token:
    """One token.

    id       in the vocabulary
    piece    its entry there
    text     what it adds to the text, spaces before it too; empty where its bytes end inside a character
    special  it marks the structure (begin, end, separator, padding), and is no text
    joins    it goes on with the word before it, whatever the characters say
    """

    id: int
    piece: str
    text: str
    special: bool = False
    joins: bool = False


def read_tokens(
    tokenizer: Any, ids: Sequence[int], text: str | None = None, offsets: Sequence[tuple[int, int]] | None = None
) -> list[Token]:
    """The tokens of a text with what each of them adds to it.

    text, offsets  where each token lies in the text (`return_offsets_mapping`), if that is known
    """
    pieces = [_as_text(p) for p in tokenizer.convert_ids_to_tokens(list(ids))]
    spelling = find_spelling(tokenizer)
    marks, added = _marks(tokenizer, spelling)
    if text is not None and offsets is not None:
        found = _from_offsets(ids, pieces, text, offsets, marks, spelling)
        if found is not None:
            return found
    return _from_pieces(ids, pieces, marks, added, spelling)


def read_each(tokenizer: Any, ids: Sequence[int]) -> list[Token]:
    """Tokens that do not stand one after the other, each read by itself."""
    spelling = find_spelling(tokenizer)
    marks, added = _marks(tokenizer, spelling)
    pieces = [_as_text(p) for p in tokenizer.convert_ids_to_tokens(list(ids))]
    return [_from_pieces([i], [p], marks, added, spelling)[0] for i, p in zip(ids, pieces)]


def _marks(tokenizer: Any, spelling: Spelling) -> tuple[set[int], dict[int, str]]:
    """The ids that mark the structure, and the ids that were added to the vocabulary, with what they say."""
    added = dict(getattr(tokenizer, "added_tokens_decoder", {}) or {})
    marks = set(getattr(tokenizer, "all_special_ids", ()) or ())
    marks |= {i for i, token in added.items() if getattr(token, "special", False)}
    if spelling != "bytes":  # elsewhere the unknown token stands for something written
        marks.discard(getattr(tokenizer, "unk_token_id", None))
    return marks, {i: str(token) for i, token in added.items()}


def _as_text(piece: Any) -> str:
    """Vocabularies of tiktoken's kind hold bytes; they are written as byte-level ones."""
    if isinstance(piece, bytes):
        return "".join(_letters()[byte] for byte in piece)
    return "" if piece is None else str(piece)


def find_spelling(tokenizer: Any) -> Spelling:
    """How the vocabulary writes spaces: the way that most of its entries do."""
    vocabulary = tokenizer.get_vocab()
    if any(isinstance(piece, bytes) for piece in vocabulary):
        return "bytes"
    ways: dict[Spelling, int] = {
        "bytes": sum(piece.startswith("Ġ") for piece in vocabulary),
        "sentencepiece": sum(piece.startswith("▁") for piece in vocabulary),
        "wordpiece": sum(piece.startswith("##") for piece in vocabulary),
        "end-of-word": sum(piece.endswith("</w>") for piece in vocabulary),
    }
    best = max(ways, key=lambda way: ways[way])
    return best if ways[best] else "plain"


@lru_cache(maxsize=1)
def _letters() -> list[str]:
    """The letter of each byte in byte-level vocabularies: printable Latin-1 itself, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@lru_cache(maxsize=1)
def _bytes_of_letters() -> dict[str, int]:
    return {letter: byte for byte, letter in enumerate(_letters())}


def _encode(piece: str, spelling: Spelling) -> bytes:
    """The bytes that a piece stands for."""
    if spelling == "bytes":
        table = _bytes_of_letters()
        if all(letter in table for letter in piece):
            return bytes(table[letter] for letter in piece)
        return piece.encode("utf-8", "replace")
    if spelling == "sentencepiece":
        byte = _BYTE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode("utf-8", "replace")
    if spelling == "wordpiece":
        return (piece[2:] if piece.startswith("##") and len(piece) > 2 else " " + piece).encode("utf-8", "replace")
    if spelling == "end-of-word":
        return piece.replace("</w>", " ").encode("utf-8", "replace")
    return (" " + piece).encode("utf-8", "replace")


def _from_pieces(
    ids: Sequence[int], pieces: Sequence[str], marks: set[int], added: dict[int, str], spelling: Spelling
) -> list[Token]:
    found: list[Token] = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    inside = False  # a character has begun in an earlier token,
    begun = 0  # in this one
    for index, piece in zip(ids, pieces, strict=True):
        if index in marks or index in added:
            left = decoder.decode(b"", final=True)
            decoder.reset()
            if left and found:
                found[-1] = _with_text(found[-1], found[-1].text + left)
            text = added.get(index, piece)
            found.append(Token(index, piece, text, index in marks))
            inside = False
            continue
        text = decoder.decode(_encode(piece, spelling))
        if inside and text:  # the character that ends here belongs to the token in which it began
            found[begun] = _with_text(found[begun], found[begun].text + text[0])
            text = text[1:]
        found.append(Token(index, piece, text, False, inside or _goes_on(piece, spelling)))
        pending = bool(decoder.getstate()[0])
        if pending and (text or not inside):
            begun = len(found) - 1
        inside = pending
    left = decoder.decode(b"", final=True)
    if left and found:
        found[-1] = _with_text(found[-1], found[-1].text + left)
    return found


def _goes_on(piece: str, spelling: Spelling) -> bool:
    return spelling == "wordpiece" and piece.startswith("##") and len(piece) > 2


def _with_text(token: Token, text: str) -> Token:
    return Token(token.id, token.piece, text, token.special, token.joins)


def _from_offsets(
    ids: Sequence[int],
    pieces: Sequence[str],
    text: str,
    offsets: Sequence[tuple[int, int]],
    marks: set[int],
    spelling: Spelling,
) -> list[Token] | None:
    """The tokens as they stand in the text; None where the places make no sense."""
    found: list[Token] = []
    cursor = 0
    for index, piece, (begin, end) in zip(ids, pieces, offsets, strict=True):
        if index in marks:
            found.append(Token(index, piece, text[begin:end] or piece, True))
            cursor = max(cursor, end)
            continue
        if begin > end or end > len(text):
            return None
        overlaps = begin < cursor  # a token that ends inside a character lies where its neighbour does
        shown = text[cursor : max(end, cursor)]
        found.append(Token(index, piece, shown, False, overlaps or not shown or _goes_on(piece, spelling)))
        cursor = max(cursor, end)
    return found


# -- words -------------------------------------------------------------------------------------------------------------


def merge(tokens: Sequence[Token], relevance: Sequence[float], breaks: Iterable[int] = ()) -> list[Word]:
    """Words of tokens, each with the sum of their relevance.

    breaks  token positions at which a word begins in any case, such as the first one of an answer
    """
    stops = set(breaks)
    groups: list[list[int]] = []
    for i in range(len(tokens)):
        if groups and i not in stops and _continues(tokens, groups[-1], i):
            groups[-1].append(i)
        else:
            groups.append([i])
    words: list[Word] = []
    pending = ""  # white space that a token of its own stood for
    for group in groups:
        text = "".join(tokens[i].text for i in group)
        special = tokens[group[0]].special
        core = text if special else text.strip()
        if special:
            before, pending = pending, ""
        elif core:
            before, pending = pending + text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        else:  # white space alone: shown by signs, and its line breaks kept for what follows
            before, core, pending = pending, _signs(text), "\n" * text.count("\n")
        words.append(
            Word(
                text=core,
                before=before,
                relevance=float(sum(relevance[i] for i in group)),
                special=special,
                start=group[0],
                stop=group[-1] + 1,
                pieces=tuple((tokens[i].piece, float(relevance[i])) for i in group),
            )
        )
    return words


def _signs(space: str) -> str:
    """White space as signs that can be seen and coloured."""
    if not space:
        return "\ufffd"
    seen = {"\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(seen.get(sign, "␣") for sign in space)


def _continues(tokens: Sequence[Token], group: Sequence[int], index: int) -> bool:
    """Whether a token goes on with the word of the tokens before it."""
    token = tokens[index]
    if token.special or tokens[group[-1]].special:
        return False
    if token.joins:
        return True
    before = "".join(tokens[i].text for i in group)
    if not before or not token.text:
        return False
    if before == " " and not token.text[0].isspace():
        return True  # one space that is a token of its own belongs to the word it stands before
    a, b = before[-1], token.text[0]
    if a.isspace() or b.isspace():
        return a == b == " " and not before.strip() and not token.text.strip()
    if a == _JOINER or b in (_JOINER, "\ufe0f") or unicodedata.category(b).startswith("M"):
        return True
    if _unspaced(a) or _unspaced(b):
        return False
    if b in _APOSTROPHES and _inside(a):  # don't, cut wherever
        after = token.text[1:] or (tokens[index + 1].text if index + 1 < len(tokens) else "")
        return after[:1].isalpha()
    if a in _APOSTROPHES and _inside(before[-2:-1]):
        return _inside(b)
    return _inside(a) and _inside(b)


def _inside(sign: str) -> bool:
    return bool(sign) and (sign.isalnum() or sign == "_" or unicodedata.category(sign).startswith("M"))


def _unspaced(sign: str) -> bool:
    code = ord(sign)
    return any(low <= code <= high for low, high in _UNSPACED)
