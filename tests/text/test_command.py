"""`relprop text`, as a user calls it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("click", reason="the command needs click")
pytest.importorskip("rich", reason="the terminal needs rich")
pytest.importorskip("transformers", reason="language models come from transformers")

from tests.cli.conftest import Said, relprop
from tests.text import tiny

assert relprop  # the command run in this process
Command = Callable[..., Said]
TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    tiny.llama().save_pretrained(folder)
    tiny.byte_level().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.bert().save_pretrained(folder)
    tiny.wordpiece().save_pretrained(folder)
    return folder


def test_the_next_token(relprop: Command, causal: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = relprop("text", TEXT, "--model", causal, "--target", " the", "--out", page)
    assert (said.code, said.err) == (0, "")
    assert "logit of ' the'" in said.out and TEXT in said.out and f"wrote {page}" in said.out
    assert "France" in page.read_text(encoding="utf-8")


def test_by_id_and_contrast(relprop: Command, causal: Path, tmp_path: Path) -> None:
    index = tiny.byte_level()(" the")["input_ids"][0]
    out = tmp_path / "a.json"
    said = relprop("text", TEXT, "--model", causal, "--target", f"#{index}", "--contrast", " is", "--out", out)
    assert said.code == 0 and "minus that of ' is'" in said.out
    assert json.loads(out.read_text())["target"] == "logit of ' the' minus that of ' is'"


def test_an_answer(relprop: Command, causal: Path) -> None:
    said = relprop("text", TEXT, "--model", causal, "--generate", "3", "--preset", "CPLRP")
    assert said.code == 0 and "answer: 3 tokens" in said.out and "books balanced" in said.out


def test_two_texts(relprop: Command, encoder: Path) -> None:
    said = relprop("text", "A man is eating.", "--similar-to", "Someone eats food.", "--model", encoder)
    assert said.code == 0 and said.out.startswith("similarity: ")


def test_from_standard_input(relprop: Command, causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    assert TEXT in relprop("text", "-", "--model", causal).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", " "], "TEXT is empty"),
        (["text", "a", "--similar-to", ""], "--similar-to is empty"),
        (["text", "a", "--similar-to", "b", "--target", "c"], "leave out --target, --contrast and --generate"),
        (["text", "a", "--generate", "2", "--target", "c"], "leave out --target and --contrast"),
        (["text", "a", "--generate", "0"], "--generate"),
        (["text", "a", "--model", "gpt9"], "unknown language model 'gpt9'"),
        (["text", "a", "--preset", "Attn"], "unknown preset 'Attn'"),
        (["text", "a", "--out", "a.bmp"], "what was found is written as .html"),
        (["text", "a", "--out", "no/such/a.html"], "there is no folder"),
    ],
)
def test_mistakes(relprop: Command, arguments: list[str], message: str) -> None:
    said = relprop(*arguments)
    assert said.code == 2 and not said.out
    assert message in said.err and len(said.err.splitlines()) == 1


def test_without_transformers(relprop: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = relprop("text", TEXT)
    assert said.code == 2 and not said.out
    assert said.err.startswith("relprop: a language model needs the package 'transformers', which is not installed:")
    assert said.err.endswith("pip install 'relprop[text]'\n") and len(said.err.splitlines()) == 1


def test_the_wrong_kind_of_model(relprop: Command, causal: Path, encoder: Path, tmp_path: Path) -> None:
    said = relprop("text", "a", "--model", encoder, "--out", tmp_path / "a.html")
    assert said.code == 2 and len(said.err.splitlines()) == 1
    assert relprop("text", "cold", "--similar-to", "ice", "--model", causal).code == 2
    said = relprop("text", TEXT, "--model", causal, "--target", "Paris Rome", "--out", tmp_path / "a.html")
    assert said.code == 2 and "tokens, not one" in said.err
    said = relprop("text", TEXT, "--model", causal, "--page", "7", "--out", tmp_path / "a.html")
    assert said.code == 2 and "there is no page 7" in said.err
    assert not list(tmp_path.iterdir())
