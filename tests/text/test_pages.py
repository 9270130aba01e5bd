"""What is seen of a text: pages, fragments, the terminal, pictures. No text of it is ever run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("rich", reason="the terminal needs rich")

from relprop.errors import InputError
from relprop.explain.audit import Audit
from relprop.render.text import STEPS, pages, passages, shade, shades
from relprop.text import GenerationExplanation, SimilarityExplanation, TextExplanation, Token

HOSTILE = [
    "<script>alert(1)</script>",
    "</span></p></style></title><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "--><iframe src=javascript:alert(1)>",
    "]]>&lt;b&gt;&amp;",
    "{{7*7}}${7*7}`",
]
BOOKS = {"bias": 0.1, "epsilon": 0.0, "constants": 0.0, "excess": 0.2}


def audit(name: str = "input_ids", leaf: str = "positions") -> Audit:
    return Audit(1.0, {name: 0.5}, {leaf: 0.2}, **BOOKS, scale=1.0, tolerance=1e-3)


def text_of(words: list[str], seed: int = 0, **given: Any) -> TextExplanation:
    torch.manual_seed(seed)
    tokens = [Token(i, "Ġ" + word, " " + word, special=i == 0) for i, word in enumerate(words)]
    settings = {"score": 1.5, "target": "logit of ' x'", "audit": audit(), **given}
    return TextExplanation(tokens, torch.randn(len(tokens)), **settings)


def answer_of(words: list[str], start: int, seed: int = 0, **given: Any) -> GenerationExplanation:
    torch.manual_seed(seed)
    count = len(words) - start
    tokens = [Token(i, "Ġ" + word, " " + word) for i, word in enumerate(words)]
    matrix = torch.randn(count, len(words)).tril(start - 1)
    return GenerationExplanation(
        tokens, start, matrix, torch.ones(count), torch.full((count,), 0.5), [audit() for _ in range(count)], **given
    )


def hostile_results() -> dict[str, Any]:
    bad = [*HOSTILE, "the", "end"]
    joined = " ".join(HOSTILE)
    return {
        "text": text_of(
            bad,
            target=joined,
            candidates=tuple((text, 0.1) for text in HOSTILE),
            notes=tuple(HOSTILE),
            audit=audit(joined, joined),
        ),
        "long text": text_of(bad * 150),
        "pieces": TextExplanation(
            [Token(i, piece, "x", joins=i > 0) for i, piece in enumerate(HOSTILE)], torch.ones(len(HOSTILE)), 1.0, "x"
        ),
        "answer": answer_of(bad * 2, 9, notes=tuple(HOSTILE)),
        "similarity": SimilarityExplanation(
            text_of(bad), text_of(bad[::-1], 1), 0.5, audit(joined, joined), notes=tuple(HOSTILE)
        ),
    }


class Reader(HTMLParser):
    """What a browser would make of a page."""

    TAGS = set(
        "html head meta title style body main div p span h1 h2 ul ol li code meter details summary table tr th td "
        "small b a input label br section".split()
    )
    ATTRIBUTES = set(
        "lang charset http-equiv content name class title dir id href open style scope min max value type checked for"
        .split()
    )  # fmt: skip

    # A page has a frame around the fragment, with a script of its own.
    PAGE_TAGS = TAGS | set("header footer script svg rect dl dt dd thead tbody caption".split())
    PAGE_ATTRIBUTES = ATTRIBUTES | set(
        "hidden role tabindex aria-label aria-hidden focusable viewbox preserveaspectratio x y width height data-views"
        .split()
    )  # fmt: skip

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        whole = page.lstrip().startswith("<!doctype html>")
        self.tags_known = self.PAGE_TAGS if whole else self.TAGS
        self.attributes_known = self.PAGE_ATTRIBUTES if whole else self.ATTRIBUTES
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.titles: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.classes: list[list[str]] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.tags_known, f"an element <{tag}> that was not written here"
        self.tags.append(tag)
        for name, value in attrs:
            assert name in self.attributes_known, f"an attribute {name} that was not written here"
            if name == "style":
                assert re.fullmatch(r"width:\d+\.\d%", value or ""), value
            if name == "href":
                assert (value or "").startswith("#")
                self.links.append((value or "")[1:])
            if name == "id":
                self.ids.append(value or "")
            if name == "title":
                self.titles.append(value or "")
            if name == "class":
                self.classes.append((value or "").split())

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        (self.scripts if self.lasttag == "script" and self.cdata_elem else self.text).append(data)


@pytest.mark.parametrize("name", hostile_results())
@pytest.mark.parametrize("form", ["page", "fragment"])
def test_no_text_is_run(name: str, form: str, tmp_path: Path) -> None:
    """HTML in a document, a token, a target, a candidate, a note or a module's name is shown, never run."""
    found = hostile_results()[name]
    html = found.to_html(tmp_path / "a.html").read_text(encoding="utf-8") if form == "page" else found._repr_html_()
    read = Reader(html)
    seen = "".join(read.text + read.titles)
    for text in HOSTILE:
        assert text in seen, "not shown as it is"
    assert "img" not in read.tags
    assert "http://" not in html and "https://" not in html and "url(" not in html
    if form == "page":  # the page's own script is the only one that its policy lets run
        data, script = read.scripts
        json.loads(data)
        allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}';" in html
    else:
        assert "script" not in read.tags


def test_the_check_finds_what_is_not_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    from relprop.render import text_html

    monkeypatch.setattr(text_html, "escape", str)
    for found in hostile_results().values():
        with pytest.raises(AssertionError):
            Reader(found._repr_html_())


@pytest.mark.parametrize(
    "sign", ["\x1b[2J", "\x9b31m", "\x07", "\r", "\u202e", "\u2066", "\x00", "\x08", "\x1c", "\x85"]
)
def test_no_sign_steers_the_terminal_or_the_page(sign: str) -> None:
    found = text_of(
        ["a", f"b{sign}c", sign, f"{sign}d"], candidates=((sign, 1.0),), notes=(sign,), target=f"logit {sign}"
    )
    answer = answer_of(["a", f"b{sign}c", f"d{sign}"], 1)
    for one in (found, answer):
        out = io.StringIO()
        one.show(file=out, colour=False)
        assert sign not in out.getvalue() and "b" in out.getvalue()
        assert sign not in one._repr_html_()


def test_markup_of_the_terminal_is_no_markup_of_the_text() -> None:
    out = io.StringIO()
    text_of(["see", "[red]this[/red]", ":smile:"], notes=("[bold]note[/bold]",)).show(file=out, colour=False)
    assert "[red]this[/red]" in out.getvalue() and ":smile:" in out.getvalue() and "[bold]note[/bold]" in out.getvalue()


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_every_word_has_the_colour_of_its_relevance() -> None:
    found = text_of(["mark", "a", "b", "c"])
    found.relevance = torch.tensor([0.0, 2.0, -1.0, 0.001])
    read = Reader(found._repr_html_())
    shown = [classes for classes in read.classes if "w" in classes]
    assert shown == [["w", "mark"], ["w", f"p{STEPS}"], ["w", f"n{STEPS // 2}"], ["w"]]
    assert [t for t in read.titles if t] == ["+0", "+2", "-1", "+0.001"]
    assert "against -2" in "".join(read.text) and "+2 for" in "".join(read.text)


def test_pieces_of_a_word_are_said_with_their_shares() -> None:
    found = TextExplanation([Token(0, "ĠPar", " Par"), Token(1, "is", "is")], torch.tensor([1.0, -0.25]), 1.0, "x")
    assert "+0.75 = ĠPar +1  is -0.25" in Reader(found._repr_html_()).titles


def test_writing_stands_out_from_every_shade() -> None:
    def light(colour: tuple[int, ...]) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    for colours in ("relevance", "relevance-dark"):
        table = shades(colours)
        assert len(table) == 2 * STEPS + 1
        for ground, ink in table:
            ratio = light(ground) / light(ink)
            assert max(ratio, 1 / ratio) >= 4.5


def test_nothing_is_said_to_be_nothing() -> None:
    found = text_of(["a", "b"])
    found.relevance = torch.zeros(2)
    assert "zero everywhere" in found._repr_html_()
    out = io.StringIO()
    found.show(file=out)
    assert "zero everywhere" in out.getvalue()
    answer = answer_of(["a", "b", "c"], 1)
    answer.matrix = torch.zeros(2, 3)
    assert "zero everywhere" in answer._repr_html_()
    answer.show(file=out)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    found = text_of(["a", "b"])
    found.relevance = torch.tensor([1.0, value])
    with pytest.raises(InputError, match="the words' relevance is not finite"):
        found.to_html(tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_a_text_without_words() -> None:
    with pytest.raises(InputError, match="there is no text to draw"):
        TextExplanation([], torch.zeros(0), 0.0, "x").show(file=io.StringIO())


# -- long documents ----------------------------------------------------------------------------------------------------


def document() -> TextExplanation:
    sentence = "The old river runs down to the sea and never freezes .".split()
    return text_of([w if i % 40 else f"{w}\n" for i, w in enumerate(sentence * 373)][:4096])


def test_a_long_document_in_pages(tmp_path: Path) -> None:
    found = document()
    assert len(found.tokens) == 4096
    read = Reader(found.to_html(tmp_path / "a.html").read_text(encoding="utf-8"))
    assert (tmp_path / "a.html").stat().st_size < 1_000_000
    assert ["panel"] not in read.classes and read.classes.count(["page"]) == len(pages(found.words)) > 5
    assert len(read.links) == 5 and set(read.links) <= set(read.ids), "a link leads nowhere"
    assert len(set(read.ids)) == len(read.ids)
    listed = sum(p.stop - p.start for p in found.passages())
    assert len([c for c in read.classes if "w" in c]) == len(found.words) + listed


def test_pages_and_passages_cover_every_word_once() -> None:
    words = document().words
    for cut in (pages(words), pages(words, 50), [(p.start, p.stop) for p in passages(words)]):
        assert [i for start, stop in cut for i in range(start, stop)] == list(range(len(words)))
    assert all(stop - start <= 110 for start, stop in pages(words, 50))
    total = sum(word.relevance for word in words)
    assert sum(p.relevance for p in passages(words)) == pytest.approx(total, abs=1e-6)


def test_the_strongest_passage_comes_first() -> None:
    found = document()
    words = found.words
    late, early = passages(words)[200], passages(words)[3]
    found.relevance = torch.zeros(4096)
    begin = words[late.start].start
    found.relevance[begin : begin + 4] = torch.tensor([1.0, -3.0, -3.0, -3.0])
    found.relevance[words[early.start].start] = 2.0
    best = found.passages(2)
    assert [(p.start, p.stop) for p in best] == [(late.start, late.stop), (early.start, early.stop)]
    assert [p.relevance for p in best] == pytest.approx([-8.0, 2.0])


def test_sentences_end_where_people_end_them() -> None:
    tokens = [" Pi", " is", " 3", ".", "14", ".", " So", " it", " is", "!", " 是", "。", "的"]
    found = TextExplanation([Token(i, t, t) for i, t in enumerate(tokens)], torch.ones(13), 1.0, "x")
    cut = [" ".join(w.text for w in found.words[p.start : p.stop]) for p in passages(found.words)]
    assert cut == ["Pi is 3 . 14 .", "So it is !", "是 。", "的"]


def test_a_long_document_on_the_terminal() -> None:
    found, out = document(), io.StringIO()
    found.show(file=out, colour=False)
    first = out.getvalue()
    assert "strongest passages" in first and "page 1 of" in first and len(first) < 10_000
    found.show(page=3, file=out, colour=False)
    assert "page 3 of" in out.getvalue().removeprefix(first)
    with pytest.raises(InputError, match=r"there is no page 99: the text has \d+"):
        found.show(page=99, file=out)


# -- an answer ---------------------------------------------------------------------------------------------------------


def test_each_word_of_an_answer_can_be_chosen() -> None:
    found = answer_of("The capital of France is Paris , of course".split(), 5)
    html = found._repr_html_()
    read = Reader(html)
    assert read.tags.count("input") == read.tags.count("section") == 5  # the whole answer, and each of four words
    assert html.count(" checked>") == 1
    for i in range(1, 6):
        assert f".choice:nth-of-type({i}):checked~.panels>.panel:nth-child({i}){{display:block}}" in html
    titles = [t for t in read.titles if "→" in t]
    assert len(titles) == 4 * 8
    assert f"France → Paris: {found.matrix[0, 3].item():+.3g}" in titles


def test_a_large_answer_stays_small() -> None:
    found = answer_of([f"w{i}" for i in range(1400)], 1200)
    html = found._repr_html_()
    read = Reader(html)
    assert "the 60 strongest of 1400 words" in "".join(read.text)
    assert len(html) < 6_000_000


def test_an_answer_on_the_terminal() -> None:
    found, out = answer_of("The capital of France is Paris , of course".split(), 5), io.StringIO()
    found.show(file=out, colour=False)
    said = out.getvalue()
    assert "\x1b" not in said and "Paris , of course" in said and "the answer across" in said
    strongest = found.word_matrix()[0].abs().argmax()
    line = next(line for line in said.splitlines() if line.strip().startswith("1 Paris"))
    assert line.split()[2] == found.words[strongest].text


def test_colours_only_where_they_are_wanted() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    found = text_of(["a", "b"])
    found.show(file=plain)  # no terminal
    found.show(file=coloured, colour=True)
    assert "\x1b[" not in plain.getvalue() and "48;2;" in coloured.getvalue()


def test_shades_are_even_and_signed() -> None:
    found = text_of(["a"])
    from relprop.render.text import scale_of

    found.relevance = torch.tensor([-4.0])
    scale = scale_of(found.words)
    assert [shade(v, scale) for v in (-9, -4, -2, 0, 1, 4, 9)] == [
        -STEPS,
        -STEPS,
        -STEPS // 2,
        0,
        STEPS // 4,
        STEPS,
        STEPS,
    ]


# -- files -------------------------------------------------------------------------------------------------------------

RESULTS: dict[str, Callable[[], Any]] = {
    "text": lambda: text_of(["a", "日本", "$x$", "b\n", "c"]),
    "answer": lambda: answer_of("The capital of France is Paris of course".split(), 5),
    "similarity": lambda: SimilarityExplanation(text_of(["a", "b"]), text_of(["c", "d"], 1), 0.5, audit()),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures(name: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    path = RESULTS[name]().save(tmp_path / f"a{suffix}")
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(begins) and path.stat().st_size > 2000


@pytest.mark.parametrize("name", RESULTS)
def test_numbers_come_back(name: str, tmp_path: Path) -> None:
    found = RESULTS[name]()
    data = json.loads(found.save(tmp_path / "a.json").read_text(encoding="utf-8"))
    if name == "text":
        assert [t["relevance"] for t in data["tokens"]] == pytest.approx(found.relevance.tolist())
        assert data["tokens"][1]["text"] == " 日本"
    elif name == "answer":
        torch.testing.assert_close(torch.tensor(data["matrix"]), found.matrix)
        assert data["answer"] == " Paris of course"
    else:
        assert data["score"] == 0.5 and len(data["second"]["tokens"]) == 2


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    found = text_of(["a"])
    with pytest.raises(InputError, match=r"what was found is written as \.html, "):
        found.save(tmp_path / "a.bmp")
    with pytest.raises(InputError, match=r"a page is written as \.html"):
        found.to_html(tmp_path / "a.txt")
    with pytest.raises(InputError, match="there is no folder"):
        found.save(tmp_path / "no" / "a.html")
    assert not list(tmp_path.iterdir())
