"""Figures and files: grids.

Scales with numbers, PNG, SVG and PDF, and what is refused before anything is written.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relprop.errors import InputError
from relprop.render import grid, heatmap, pixels, png_bytes, save, save_array, save_film
from relprop.render.figure import check_path

PHOTO = np.tile(np.arange(16, dtype=np.uint8)[:, None] * 15, (1, 16))[..., None].repeat(3, -1)


def texts(figure: Any) -> str:
    """All that is written on a figure."""
    matplotlib_text = pytest.importorskip("matplotlib.text")
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib_text.Text) if t.get_text())


def pictures(figure: Any) -> list[np.ndarray]:
    """The arrays that a figure shows, in order."""
    return [np.asarray(image.get_array()) for axis in figure.axes for image in axis.images]


def test_each_map_has_its_title_scale_and_sum() -> None:
    figure = grid([torch.full((3, 4, 4), 0.25), -torch.eye(4)], ["one", "two"])
    written = texts(figure)
    for expected in ("one", "two", "sum 12", "sum -4", "+0.75", "-0.75", "+1", "-1"):
        assert expected in written
    np.testing.assert_array_equal(pictures(figure)[1], heatmap(-torch.eye(4)))


def test_one_scale_for_all_or_each_its_own() -> None:
    maps = [np.eye(4), 4 * np.eye(4)]
    own = pictures(grid(maps))
    np.testing.assert_array_equal(own[0], own[1])
    shared = grid(maps, shared_scale=True)
    weak, strong = pictures(shared)[:2]
    np.testing.assert_array_equal(strong, own[1])
    np.testing.assert_array_equal(weak, heatmap(maps[0], limit=4.0))
    assert "one scale for all" in texts(shared)


def test_clipping_is_written_below() -> None:
    values = np.linspace(-1, 1, 400).reshape(20, 20)
    values[0, 0] = 9
    assert "clipped, strongest 9" in texts(grid([values], percentile=99))
    assert "clipped" not in texts(grid([values], percentile=100))


def test_what_was_done_to_the_relevance_is_written_below() -> None:
    written = texts(grid([np.eye(4)], reduce="norm", smooth=1.5, contours=(0.5, -0.25)))
    assert "norm over channels · smoothed by 1.5 pixels · lines at +0.5, -0.25 of the scale" in written
    assert "lines at +0.5 of the scale" in texts(grid([np.eye(4)], contours=0.5))
    assert "·" not in texts(grid([np.eye(4)]))


def test_a_map_of_zeros_says_so_and_its_neighbours_stand() -> None:
    for shared in (False, True):
        figure = grid([np.zeros((4, 4)), np.eye(4)], shared_scale=shared)
        assert "no relevance: every value is zero" in texts(figure) or shared
    assert "no relevance" in texts(grid([np.zeros((4, 4))], shared_scale=True))


def test_a_photograph_for_all_or_one_for_each() -> None:
    one = pictures(grid([np.eye(16), np.eye(16)], photo=PHOTO))
    assert len(one) == 3
    np.testing.assert_array_equal(one[0], PHOTO)
    each = pictures(grid([np.eye(16), np.eye(16)], photo=[PHOTO, 255 - PHOTO]))
    assert len(each) == 4
    np.testing.assert_array_equal(each[2], 255 - PHOTO)


def test_a_batch_is_a_grid() -> None:
    assert len(pictures(grid(torch.randn(5, 3, 4, 4)))) == 5
    assert len(pictures(grid(torch.randn(4, 4)))) == 1


def test_titles_are_written_as_they_are() -> None:
    title = "costs $5, or $6_x^2$ \\frac"
    figure = grid([np.eye(3)], [title])
    assert title in texts(figure)
    pixels(figure)  # a formula that does not parse would raise here


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_small_and_narrow_maps_are_drawn(shape: tuple[int, int]) -> None:
    drawn = pixels(grid([np.ones(shape)], ["t"]))
    assert drawn.shape[0] > 50 and drawn.shape[1] > 50 and len(np.unique(drawn)) > 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid([]), "no maps"),
        (lambda: grid([np.eye(2)], ["a", "b"]), "1 maps, but 2 titles"),
        (lambda: grid([np.eye(16)], photo=[PHOTO, PHOTO]), "1 maps, but 2 photographs"),
        (lambda: grid([np.ones((16, 8))], photo=PHOTO), "map is 16 x 8 and the photograph 16 x 16"),
        (lambda: grid([np.eye(2)], over=True), "over a photograph: give photo="),
        (lambda: grid([np.full((2, 2), np.nan)]), "not finite"),
        (lambda: grid([np.eye(2)], columns=0), "columns must be at least 1"),
        (lambda: grid([np.eye(2)], limit="a"), "limit of a scale must be positive and finite, got 'a'"),
        (lambda: grid([np.eye(2)], percentile="99"), "percentile must be above 0"),
        (lambda: grid([np.eye(2)], smooth="x"), "smooth must be a standard deviation"),
        (lambda: grid([np.eye(2)], contours=("a",)), "a contour is a share of the scale"),
        (lambda: grid([np.eye(16)], photo=PHOTO, over=True, opacity="x"), "opacity must lie between 0 and 1"),
        (lambda: grid(torch.zeros(1, 2, 3, 4, 5)), "list of maps or of"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_same_figure_gives_the_same_file(tmp_path: Path, suffix: str, start: bytes) -> None:
    files = [save(grid([np.eye(4)], ["t"]), tmp_path / f"{i}{suffix}").read_bytes() for i in range(2)]
    assert files[0] == files[1] and files[0].startswith(start)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"0{suffix}", f"1{suffix}"]


def test_text_in_svg_stays_text_and_is_escaped(tmp_path: Path) -> None:
    svg = save(grid([np.eye(4)], ["<script>alert(1)</script>"]), tmp_path / "a.svg").read_text()
    assert "<script>" not in svg and "&lt;script&gt;" in svg


def test_paths_are_checked_before_the_work(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "a.jpg", ".png, .svg, .pdf, not .jpg"),
        (tmp_path / "a", "without a suffix"),
        (tmp_path / "none" / "a.png", "no folder"),
        (tmp_path, "without a suffix|is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            check_path(path)
    folder = tmp_path / "b.png"
    folder.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        check_path(folder)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match="No space left"):
        save_array(heatmap(np.eye(3)), path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_arrays_are_written_pixel_by_pixel(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = heatmap(torch.randn(9, 7))
    np.testing.assert_array_equal(np.asarray(image.open(save_array(picture, tmp_path / "a.png"))), picture)
    np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(png_bytes(picture)))), picture)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_films(tmp_path: Path, suffix: str) -> None:
    image = pytest.importorskip("PIL.Image")
    film = np.stack([heatmap(np.eye(12) * sign) for sign in (1, -1, 1)])
    path = save_film(film, tmp_path / f"a{suffix}", rate=5)
    with image.open(path) as opened:
        assert opened.n_frames == 3
        opened.seek(1)
        opened.load()
        assert opened.info["duration"] == 200
        shown = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(shown - film[1]).max() <= (8 if suffix == ".gif" else 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: save_film(np.zeros((2, 3, 3, 3)), p / "a.gif"), "of uint8; got float64"),
        (lambda p: save_film(np.zeros((2, 3, 3, 3), np.uint8), p / "a.mp4"), "written as .gif"),
        (lambda p: save_film(np.zeros((2, 3, 3, 3), np.uint8), p / "a.gif", rate=0), "rate must be positive"),
        (lambda p: save_array(np.zeros((0, 3, 3), np.uint8), p / "a.png"), r"shape \(0, 3, 3\)"),
        (lambda p: save_array(np.zeros((3, 3, 3), np.uint8), p / "a.svg"), "written as .png"),
        (lambda p: save_array(np.zeros((3, 3, 3), np.uint8), p / "no" / "a.png"), "no folder"),
    ],
)
def test_bad_files(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_threads_may_draw_at_once() -> None:
    results: list[np.ndarray | None] = [None, None]

    def draw(i: int) -> None:
        results[i] = pixels(grid([np.eye(8)], ["t"]))

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] is not None and results[1] is not None
    np.testing.assert_array_equal(results[0], results[1])


def test_nothing_of_matplotlib_is_left_changed() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    pixels(grid([np.eye(4)]))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("caption", ["", "image · what was explained"], ids=["bare", "with a caption"])
@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("photo", [None, np.zeros((8, 8, 3), np.uint8)], ids=["alone", "with a photograph"])
def test_titles_of_maps_of_zeros_are_whole(count: int, caption: str, photo: Any) -> None:
    """A white edge is left on every side."""
    for strength in (0.0, 1.0):
        maps = [torch.zeros(3, 8, 8)] * (count - 1) + [strength * torch.ones(3, 8, 8)]
        drawn = pixels(grid(maps, [f"sample {i}" for i in range(count)], caption=caption, photo=photo)).min(2)
        for edge in (drawn[:3], drawn[-3:], drawn[:, :3], drawn[:, -3:]):
            assert (edge == 255).all()
