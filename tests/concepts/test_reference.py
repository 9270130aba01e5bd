"""Reference samples of concepts: which ones, where in them, kept in files, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.concepts import Directions, Heads
from relprop.concepts.reference import References, reference_samples
from tests.concepts.nets import Small, small
from tests.support.compare import assert_close


def data(count: int = 11) -> tuple[Small, Tensor, Tensor]:
    torch.manual_seed(5)
    model, _, _ = small()
    return model, torch.randn(count, 2, 4, 4, dtype=torch.float64), torch.randint(5, (count,))


def batches(x: Tensor, labels: Tensor | None, size: int) -> Any:
    for i in range(0, len(x), size):
        yield x[i : i + size] if labels is None else (x[i : i + size], labels[i : i + size])


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("size", [1, 3, 11])
def test_the_most_relevant_samples(size: int, normalise: bool) -> None:
    model, x, labels = data()
    lrp = rp.LRP(model, rp.Epsilon(1e-3))
    found = reference_samples(lrp, batches(x, labels, size), "conv2", count=4, normalise=normalise)
    scores = [
        lrp.explain(x[i : i + 1], target=int(labels[i]), layers="conv2").layers["conv2"].sum((0, 2, 3))
        for i in range(len(x))
    ]
    table = torch.stack([s / s.abs().sum() if normalise else s for s in scores])
    for unit in range(3):
        order = sorted(range(len(x)), key=lambda i: -float(table[i, unit]))[:4]
        assert found.samples[unit].tolist() == order
        assert_close(found.values[unit], table[order, unit], 1e-10)
        assert found.of(unit) == list(zip(order, found.values[unit].tolist(), strict=True))
    assert found.seen == 11 and found.by == "relevance"


def test_the_most_active_samples() -> None:
    model, x, _ = data()
    lrp = rp.LRP(model, rp.Epsilon(1e-3))
    sums = model.conv1(x).relu().sum((2, 3)).detach()
    found = reference_samples(lrp, batches(x, None, 4), "(model).relu", by="activation", count=3)
    for unit in range(3):
        assert found.samples[unit].tolist() == sums[:, unit].argsort(descending=True)[:3].tolist()
    columns = reference_samples(
        lrp, batches(x, None, 4), "(model).relu", by="activation", units=Heads(of=2), count=2, target="predicted"
    )
    halves = model.conv1(x).relu().unflatten(3, (2, 2)).sum((1, 2, 4)).detach()
    assert columns.samples[1].tolist() == halves[:, 1].argsort(descending=True)[:2].tolist()


def test_directions_have_reference_samples_too() -> None:
    model, x, labels = data()
    vectors, lrp = torch.randn(2, 3, dtype=torch.float64), rp.LRP(model, rp.Zero())
    found = reference_samples(lrp, batches(x, None, 4), "conv1", by="activation", units=Directions(vectors), count=3)
    h = torch.einsum("nchw,cd->nd", model.conv1(x), torch.linalg.pinv(vectors)).detach()
    for i in range(2):
        assert_close(found.values[i], h[:, i].sort(descending=True).values[:3], 1e-10)
    relevant = reference_samples(lrp, batches(x, labels, 4), "conv1", units=Directions(vectors), count=3)
    assert relevant.values.shape == (2, 3) and not torch.equal(relevant.samples, found.samples)


def test_ties_go_to_the_sample_that_came_first() -> None:
    model, x, labels = data(3)
    again = (torch.cat([x, x, x]), torch.cat([labels, labels, labels]))
    for size in (1, 2, 4, 9):
        found = reference_samples(rp.LRP(model, rp.Zero()), batches(*again, size), "conv2", count=6)
        for unit in range(3):
            order = found.samples[unit].tolist()
            assert order[:3] == [order[0], order[0] + 3, order[0] + 6] and order[0] < 3


def test_fewer_samples_than_asked_for() -> None:
    model, x, labels = data(2)
    found = reference_samples(rp.LRP(model), batches(x, labels, 1), "conv2", count=8)
    assert found.samples.shape == (3, 2)


def test_samples_in_which_a_unit_has_no_part_are_none() -> None:
    model, x, labels = data(4)
    with torch.no_grad():
        model.conv1.weight[1], model.conv1.bias[1] = 0, -1
    found = reference_samples(rp.LRP(model), batches(x, labels, 2), "(model).relu", count=3)
    assert found.of(1) == [] and len(found.of(0)) > 0


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_they_are_kept_in_files(tmp_path: Path, suffix: str) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model, x, labels = data()
    found = reference_samples(rp.LRP(model), batches(x, labels, 4), "conv2", count=3)
    path = found.save(tmp_path / f"references{suffix}")
    read = References.load(path)
    assert torch.equal(read.values, found.values) and torch.equal(read.samples, found.samples)
    assert (read.layer, read.by, read.seen) == ("conv2", "relevance", 11)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(rp.InputError, match="holds no reference samples"):
        References.load(path)
    with pytest.raises(rp.InputError, match="there is no file"):
        References.load(tmp_path / f"none{suffix}")


class Corner(nn.Module):
    """Its first channel looks at bright spots, its second at dark ones."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.look.weight.data = torch.ones(2, 1, 3, 3) * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.look(x).relu().sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)


def spots() -> tuple[rp.LRP, Tensor]:
    x = torch.zeros(3, 1, 32, 32)
    x[0, 0, 4:8, 20:24], x[0, 0, 24:26, 2:6] = 1.0, -1.0  # bright above right, dark below left
    x[1, 0, 16:18, 10:12] = 0.5
    x[2, 0, 8:10, 2:4] = -0.25
    return rp.LRP(Corner(), rp.Zero()), x


def test_a_crop_holds_what_the_concept_reads() -> None:
    lrp, x = spots()
    found = reference_samples(lrp, [(x, torch.zeros(3).long())], "look", count=3)
    assert found.samples.tolist() == [[0, 1, 2], [0, 2, 1]]
    assert [i for i, _ in found.of(0)] == [0, 1] and [i for i, _ in found.of(1)] == [0, 2]
    bright = found.crops(lrp, lambda i: (x[i], 0), 0, smooth=0.0)
    dark = found.crops(lrp, lambda i: (x[i], 0), 1, smooth=0.0)
    assert [c.box for c in bright] == [(4, 8, 20, 24), (16, 18, 10, 12)]
    assert [c.box for c in dark] == [(23, 27, 2, 6), (8, 10, 2, 4)]
    e = lrp.explain(x[:1], target=0, conditions={"look": 1})
    assert_close(torch.from_numpy(dark[0].relevance), e.relevance[0, 0].abs().double(), 1e-6)


def test_a_picture_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from relprop import render

    lrp, x = spots()
    found = reference_samples(lrp, [(x, torch.zeros(3).long())], "look", count=3)
    figure = found.picture(lrp, lambda i: (x[i], 0), [0, 1], count=3, smooth=1.0)
    captions = [a.get_xlabel() for a in figure.axes]
    assert captions[0].startswith("#0  ") and captions[1].startswith("#1  ") and captions[2] == ""
    assert [a.get_ylabel() for a in figure.axes[::3]] == ["unit 0", "unit 1"]
    first = render.pixels(figure)
    again = render.pixels(found.picture(lrp, lambda i: (x[i], 0), [0, 1], count=3, smooth=1.0))
    assert (first == again).all()
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape[0] == shown.shape[1] < 20
    with pytest.raises(rp.InputError, match="is not of the size of its map"):
        found.picture(lrp, lambda i: (x[i], 0), [0], view=lambda i: torch.zeros(8, 8, 3))
    with pytest.raises(rp.InputError, match="name at least one unit"):
        found.picture(lrp, lambda i: (x[i], 0), [])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": []}, "there is no data"),
        ({"by": "size"}, 'by must be "relevance" or "activation"'),
        ({"count": 0}, "count must be a positive integer"),
        ({"data": [torch.zeros(1, 2, 4, 4).double()]}, "the data holds no labels"),
        ({"layer": "conv7"}, "nearest names: .*conv2"),
        ({"layer": "conv*"}, "name one place"),
        ({"units": Heads(of=3)}, "does not divide into 3 heads"),
    ],
)
def test_what_does_not_fit(asked: dict[str, Any], message: str) -> None:
    model, x, labels = data(2)
    with pytest.raises(rp.InputError, match=message):
        reference_samples(rp.LRP(model), **{"data": [(x, labels)], "layer": "conv1", **asked})


def test_units_and_files_that_do_not_fit(tmp_path: Path) -> None:
    model, x, labels = data(2)
    found = reference_samples(rp.LRP(model), [(x, labels)], "conv1")
    with pytest.raises(rp.InputError, match="unit 3 is out of range: conv1 has 3"):
        found.of(3)
    with pytest.raises(rp.InputError, match=r"are kept as \.npz or \.safetensors"):
        found.save(tmp_path / "references.pt")
