"""`relprop table`: what it prints and writes, and that every mistake is one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the built-in tables and models are scikit-learn's")

from relprop.errors import InputError
from relprop.tabular.data import read_table
from tests.cli.conftest import Said
from tests.cli.conftest import relprop as relprop  # the fixture that runs the command

Run = Callable[..., Said]

NETWORK = """
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))

def fitted():
    return LogisticRegression().fit([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]], ["a", "b", "b"])

def number():
    return 7
"""

PIPELINE = """
import pandas
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

def pipeline():
    frame = pandas.DataFrame({"city": ["rome", "oslo", "rome", "oslo"], "age": [20.0, 30.0, None, 50.0]})
    steps = make_column_transformer((OneHotEncoder(), ["city"]), (SimpleImputer(add_indicator=True), ["age"]))
    return make_pipeline(steps, LogisticRegression()).fit(frame, [0, 1, 0, 1])
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty rows in which y is decided by a, and a file with models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    path = tmp_path / "data.csv"
    rng = np.random.default_rng(0)
    lines = ["a,b,y"] + [f"{a:.3f},{b:.3f},{'up' if a > 0 else 'down'}" for a, b in rng.normal(size=(30, 2))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_real_data_set(relprop: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = relprop("table", "breast-cancer", "--row", 0, "--row", 19, "--preset", "EpsilonPlus", "--out", "out.csv")
    assert said.code == 0 and said.err == ""
    for expected in ("569 rows, 30 features", "right on 9", "row 0, malignant", "row 19, benign", "wrote out.csv"):
        assert expected in said.out
    with open("out.csv", newline="") as opened:
        first, *rows = csv.reader(opened)
    assert first[:6] == ["rules", "row", "target", "output", "delta", "mean radius"] and len(rows) == 2
    output, delta, *relevance = map(float, rows[0][3:])
    assert output - delta == pytest.approx(sum(relevance), rel=1e-6)


def test_a_table_of_ones_own(relprop: Run, table: Path) -> None:
    said = relprop("table", table, "--label", "y", "--model", "linear", "--out", "all.json")
    assert said.code == 0, said.err
    strengths = [line.split() for line in said.out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in strengths] == ["a", "b"], "a decides, so it is the strongest"
    found = json.loads(Path("all.json").read_text())[0]
    assert len(found) == 8 and {f["target_name"] for f in found} == {"up", "down"}


def test_models_from_a_file_and_a_picture(relprop: Run, table: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws a picture")
    said = relprop("table", table, "--label", "y", "--model", "net.py:net", "--row", 3, "--out", "row.png")
    assert said.code == 0, said.err
    assert "row 3, " in said.out and Path("row.png").stat().st_size > 5000
    said = relprop("table", table, "--label", "y", "--model", "net.py:fitted", "--row", 3, "--target", "up")
    assert said.code == 0 and "up:" in said.out


def test_pictures_of_many_rows_and_of_several_presets(relprop: Run, table: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws a picture")
    given = ("table", table, "--label", "y", "--model", "net.py:net")
    assert relprop(*given, "--out", "all.svg").code == 0
    assert relprop(*given, "--row", 3, "--preset", "epsilon", "--preset", "z_plus", "--out", "two.svg").code == 0
    assert "features by mean strength" in Path("all.svg").read_text()
    assert {"epsilon", "z_plus"} <= set(re.findall(r">(\w+)</text>", Path("two.svg").read_text()))


def test_columns_of_words(relprop: Run, table: Path) -> None:
    lines = ["city,a,y"] + [f"{'abc'[i % 3]},{i / 40},{'up' if i % 3 == 0 else 'down'}" for i in range(40)]
    table.with_name("words.csv").write_text("\n".join(lines) + "\n")
    said = relprop("table", "words.csv", "--label", "y", "--model", "linear", "--row", 3, "--out", "row.json")
    assert said.code == 0, said.err
    assert "2 features" in said.out and "row 3, up" in said.out
    found = json.loads(Path("row.json").read_text())[0][0]
    assert found["values"] == {"city": "a", "a": 0.075} and found["relevance"]["city"] > abs(found["relevance"]["a"])


def test_a_pipeline_of_ones_own_takes_words_and_gaps(relprop: Run, table: Path) -> None:
    pytest.importorskip("pandas", reason="the pipeline is fitted on a frame")
    table.with_name("titanic.py").write_text(PIPELINE)
    table.with_name("words.csv").write_text("city,age\nrome,30\noslo,\n")
    said = relprop("table", "words.csv", "--model", "titanic.py:pipeline", "--row", 1)
    assert said.code == 0, said.err
    assert "nothing" in said.out and "oslo" in said.out


def test_several_presets(relprop: Run, table: Path) -> None:
    presets = ("epsilon", "Gamma(0.5)", "EpsilonAlpha2Beta1")
    options = [word for name in presets for word in ("--preset", name)]
    said = relprop("table", table, "--label", "y", "--model", "net.py:net", "--row", 0, *options)
    assert said.code == 0 and said.out.count("row 0, ") == 3
    assert all(text in said.out for text in ("by epsilon", "by Gamma(gamma=0.5)", "by EpsilonAlpha2Beta1()"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope.csv",), "no table at nope.csv: no such file (built-in ones: breast-cancer"),
        (("data.csv", "--label", "yy"), "has no column 'yy'; nearest names: y"),
        (("data.csv",), "say which column it is to predict"),
        (("data.csv", "--model", "net.py:net"), "column 'y' holds '"),
        (("mixed.csv", "--label", "b"), "mixed.csv, row 4, column 'a' holds '1,5', which is no number"),
        (("ids.csv", "--label", "b"), "column 'a' holds 20 different words in 20 rows"),
        (("data.csv", "--label", "y", "--row", 30), "rows 0 to 29"),
        (("data.csv", "--label", "y", "--target", "upp"), "no class is named 'upp'; nearest names: up"),
        (("data.csv", "--label", "y", "--preset", "EpsilonPlu"), "EpsilonPlus"),
        (("data.csv", "--label", "y", "--model", "forest"), "a model is mlp, linear, or FILE.py:FACTORY"),
        (("data.csv", "--label", "y", "--model", "net.py:number"), "cannot be converted"),
        (
            ("data.csv", "--label", "y", "--preset", "epsilon", "--preset", "z_plus", "--out", "x.png"),
            "many rows under one preset",
        ),
        (("data.csv", "--label", "y", "--out", "x.html"), "written as .csv or .json, a picture as .png"),
        (("data.csv", "--label", "y", "--out", "no/where.csv"), "there is no folder no"),
        (("data.csv", "--label", "y", "--weights", "w.pt"), "is fitted on the table"),
        (("iris", "--model", "net.py:net"), "cannot take"),
        (("short.csv",), "at least one row"),
        (("ragged.csv",), "row 3: 1 entries under 2 columns"),
        (("twice.csv",), "column 'a' is there twice"),
        (("gap.csv", "--label", "a"), "gap, row 2, column 'b' holds nothing"),
        (("numbers.csv",), "say which column it is to predict"),
        (("numbers.csv", "--label", "b"), "at least 20"),
    ],
)
def test_mistakes(relprop: Run, table: Path, arguments: tuple[object, ...], message: str) -> None:
    for name, text in {
        "short": "a,b\n",
        "ragged": "a,b\n1,2\n3\n",
        "twice": "a,a\n1,2\n",
        "gap": "a,b\n" + "1,\n" + 20 * "2,3\n",
        "mixed": 'a,b\n1,2\n3,4\n"1,5",6\n',
        "ids": "a,b\n" + "".join(f"name {i},{i % 2}\n" for i in range(20)),
        "numbers": "a,b\n1,2\n3,4\n",
    }.items():
        table.with_name(f"{name}.csv").write_text(text)
    before = sorted(p.name for p in table.parent.iterdir() if p.name != "__pycache__")
    said = relprop("table", *arguments)
    assert said.code == 2 and message in said.err, said.err
    assert said.err.count("\n") == 1
    assert sorted(p.name for p in table.parent.iterdir() if p.name != "__pycache__") == before


def test_a_picture_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"p\.png is no table: .* CSV file.*; for a picture: relprop explain \("):
        read_table(str(path))
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"p\.bin is no table: .*header line \("):
        read_table(str(path.with_suffix(".bin")))
