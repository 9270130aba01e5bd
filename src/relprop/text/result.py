"""What was found: relevance of tokens and words, with the books, and how to look at it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.errors import InputError, RelpropError
from relprop.explain.audit import Audit
from relprop.render.files import check_destination, write_atomically
from relprop.render.text import Passage, Word, plain, strongest_passages, strongest_words
from relprop.text.pieces import Token, merge

SUFFIXES = (".html", ".htm", ".json", ".png", ".svg", ".pdf")


class Shown:
    """How every result of this package is looked at. What is drawn says `_page`, `_terminal` and `_figure`."""

    def show(self, *, page: int | None = None, colour: bool | None = None, file: Any = None) -> None:
        """Print it on the terminal, or show it below a notebook's cell.

        page    of a long text, from 1; by default the strongest passages and the first page
        colour  by default where the output is a terminal
        file    another stream than standard output
        """
        from relprop.render.explanation import _in_notebook
        from relprop.render.text_terminal import console

        if file is None and _in_notebook():
            from relprop.extras import require

            require("IPython.display", "text", "showing a text in a notebook").display(self)
            return
        self._terminal(console(file, colour), page)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write one page that needs nothing from outside; `options` are those of `relprop.render.to_html`."""
        from relprop.render.page import to_html

        return to_html(self, path, **{"title": self._title(), **options})

    def save(self, path: str | Path) -> Path:
        """Write it: .html is a page, .json the numbers, .png, .svg and .pdf a picture."""
        path = check_destination(path, SUFFIXES, "what was found")
        suffix = path.suffix.lower()
        if suffix in (".html", ".htm"):
            return self.to_html(path)
        if suffix == ".json":
            return write_atomically(path, (json.dumps(self.data(), ensure_ascii=False, indent=1) + "\n").encode())
        from relprop.render.figure import save_figure

        return save_figure(self._figure(), path)

    def _repr_html_(self) -> str:
        from relprop.render.notebook import note
        from relprop.render.text_html import fragment

        try:
            return fragment(self._fragment())
        except RelpropError as error:  # a display raises nothing
            return note(f"{self._title()}: {error}")

    def data(self) -> dict[str, Any]:
        """Everything that was found, in plain values."""
        raise NotImplementedError

    def _title(self) -> str:
        raise NotImplementedError

    def _terminal(self, console: Any, page: int | None) -> None:
        raise NotImplementedError

    def _fragment(self) -> str:
        raise NotImplementedError

    def _figure(self) -> Any:
        raise NotImplementedError


@dataclass(repr=False)
class TextExplanation(Shown):
    """How much every word contributed to one number.

    tokens      of the text, marks such as ``[CLS]`` among them
    relevance   [T], of the tokens
    score       what was explained: a logit, a difference of two, a similarity
    target      what it is called
    audit       where the score went; None where several texts share one
    plan        which rule each site got
    candidates  what else the model might have said: text and probability, the likeliest first
    notes       what a reader should know
    """

    tokens: list[Token]
    relevance: Tensor
    score: float
    target: str
    audit: Audit | None = None
    plan: Any = None
    candidates: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    breaks: tuple[int, ...] = ()

    @property
    def words(self) -> list[Word]:
        """The tokens merged into words as people write them."""
        return merge(self.tokens, self.relevance.tolist(), self.breaks)

    def strongest(self, count: int = 5) -> list[Word]:
        """The words with the most relevance of either sign."""
        return strongest_words(self.words, count)

    def passages(self, count: int = 5) -> list[Passage]:
        """The sentences with the most relevance of either sign."""
        return strongest_passages(self.words, count)

    def __str__(self) -> str:
        rows = [f"{word.relevance:+10.4g}  {word.text}" for word in self.words]
        books = [] if self.audit is None else [str(self.audit)]
        return "\n".join([f"{self.target}: {self.score:.4g}", *rows, *books])

    def data(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "score": self.score,
            "tokens": token_data(self.tokens, self.relevance),
            "words": [{"text": w.text, "special": w.special, "relevance": w.relevance} for w in self.words],
            "candidates": [{"text": text, "probability": p} for text, p in self.candidates],
            "audit": None if self.audit is None else dict(self.audit.rows()),
            "notes": list(self.notes),
        }

    def _title(self) -> str:
        return f"{self.target}: {_shortened(plain(self.words))}"

    def _terminal(self, console: Any, page: int | None) -> None:
        from relprop.render import text_terminal

        text_terminal.explanation(console, self, page)

    def _fragment(self) -> str:
        from relprop.render import text_html

        return text_html.explanation(self)

    def _figure(self) -> Any:
        from relprop.render import text_figure

        return text_figure.words(self.words, f"{self.target}: {self.score:.4g}")


@dataclass(repr=False)
class GenerationExplanation(Shown):
    """Every token of an answer, explained by the prompt and by the tokens of the answer before it.

    tokens         of the prompt and of the answer
    start          the answer's first token
    matrix         [A, T]: row a is the relevance of all tokens for answer token a, zero from itself on
    scores         [A], the explained logits
    probabilities  [A], of each answer token where it was said
    audits         one for each answer token
    finished       the answer ended by itself, not because it was long enough
    """

    tokens: list[Token]
    start: int
    matrix: Tensor
    scores: Tensor
    probabilities: Tensor
    audits: list[Audit]
    plan: Any = None
    finished: bool = False
    notes: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The answer as text."""
        return "".join(token.text for token in self.tokens[self.start :] if not token.special)

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return "".join(token.text for token in self.tokens[: self.start])

    @property
    def words(self) -> list[Word]:
        """All words; their relevance is that for the whole answer."""
        return merge(self.tokens, self.matrix.sum(0).tolist(), (self.start,))

    @property
    def answer_words(self) -> list[Word]:
        return [word for word in self.words if word.start >= self.start]

    def word_matrix(self) -> Tensor:
        """[answer words, words]: the matrix with tokens summed into words, on both sides."""
        words = self.words
        columns = torch.stack([self.matrix[:, w.start : w.stop].sum(1) for w in words], 1)
        answer = [(w.start - self.start, w.stop - self.start) for w in words if w.start >= self.start]
        rows = [columns[start:stop].sum(0) for start, stop in answer]
        return torch.stack(rows)

    def token(self, index: int) -> TextExplanation:
        """The explanation of one answer token, counted from 0."""
        count = len(self.audits)
        if not -count <= index < count:
            raise InputError(f"the answer has {count} tokens, there is none at {index}")
        index %= count
        stop = self.start + index
        said = self.tokens[stop]
        return TextExplanation(
            self.tokens[:stop],
            self.matrix[index, :stop],
            float(self.scores[index]),
            f"logit of {said.text or said.piece!r}",
            self.audits[index],
            self.plan,
            ((said.text or said.piece, float(self.probabilities[index])),),
            breaks=(self.start,),
        )

    def __str__(self) -> str:
        return f"{self.prompt!r} -> {self.answer!r}, {len(self.audits)} tokens explained"

    def data(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "answer": self.answer,
            "tokens": [{"id": t.id, "piece": t.piece, "text": t.text, "special": t.special} for t in self.tokens],
            "start": self.start,
            "matrix": self.matrix.tolist(),
            "scores": self.scores.tolist(),
            "probabilities": self.probabilities.tolist(),
            "audits": [dict(audit.rows()) for audit in self.audits],
            "notes": list(self.notes),
        }

    def _title(self) -> str:
        return f"{_shortened(self.prompt)} → {_shortened(self.answer)}"

    def _terminal(self, console: Any, page: int | None) -> None:
        from relprop.render import text_terminal

        text_terminal.generation(console, self, page)

    def _fragment(self) -> str:
        from relprop.render import text_html

        return text_html.generation(self)

    def _figure(self) -> Any:
        from relprop.render import text_figure

        return text_figure.matrix(self)


@dataclass(repr=False)
class SimilarityExplanation(Shown):
    """The similarity of two texts, explained by the words of both.

    first, second  each with its relevance; together they make the score
    score          the cosine of the angle between the two vectors
    audit          where the score went
    """

    first: TextExplanation
    second: TextExplanation
    score: float
    audit: Audit
    plan: Any = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"similarity {self.score:.4f}\n{self.first}\n{self.second}\n{self.audit}"

    def data(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "first": self.first.data(),
            "second": self.second.data(),
            "audit": dict(self.audit.rows()),
            "notes": list(self.notes),
        }

    def _title(self) -> str:
        return f"similarity {self.score:.3f}: {_shortened(plain(self.first.words))}"

    def _terminal(self, console: Any, page: int | None) -> None:
        from relprop.render import text_terminal

        text_terminal.similarity(console, self, page)

    def _fragment(self) -> str:
        from relprop.render import text_html

        return text_html.similarity(self)

    def _figure(self) -> Any:
        from relprop.render import text_figure

        return text_figure.similarity(self)


def token_data(tokens: Sequence[Token], relevance: Tensor) -> list[dict[str, Any]]:
    """Tokens with their relevance, in plain values."""
    return [
        {"id": t.id, "piece": t.piece, "text": t.text, "special": t.special, "relevance": r}
        for t, r in zip(tokens, relevance.tolist(), strict=True)
    ]


def leaf_notes(audit: Audit) -> tuple[str, ...]:
    """What of the score is at no word, where that is a tenth or more."""
    total = sum(audit.leaves.values())
    if abs(total) < 0.1 * abs(audit.seed):
        return ()
    return (f"{total:+.3g} of the score is at {', '.join(audit.leaves)}, not at words",)


def _shortened(text: str, length: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
