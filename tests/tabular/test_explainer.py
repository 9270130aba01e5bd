"""The table explainer: arrays and frames in, relevance by name out, equal to the engine's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import relprop as rp
from relprop.tabular import Comparison, Explainer, Result, Results

NAMES = ["age", "height", "weight", "pulse"]


def net(outputs: int = 3, last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs)]
    return nn.Sequential(*layers, *([last] if last else [])).double().eval()


@pytest.fixture
def rows() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(7, 4))


def test_one_instance_is_the_engines_explanation(rows: np.ndarray[Any, Any]) -> None:
    model = net()
    found = Explainer(model, NAMES, ["a", "b", "c"], rp.Gamma(0.3)).explain(rows[0], target="b")
    wanted = rp.LRP(model, rp.Gamma(0.3)).explain(torch.tensor(rows[:1]), target=1)
    np.testing.assert_allclose(found.relevance, wanted.relevance[0].numpy(), rtol=1e-12)
    assert found.target == 1 and found.target_name == "b"
    assert found.output == pytest.approx(float(wanted.output[0, 1]))
    assert found.delta == pytest.approx(found.output - found.relevance.sum())
    assert found.top(2) == sorted(zip(NAMES, found.relevance, strict=True), key=lambda p: -abs(p[1]))[:2]


@pytest.mark.parametrize("batch_size", [512, 3, 1])
@pytest.mark.parametrize("last", [None, nn.Softmax(-1), nn.LogSoftmax(-1)], ids=["logits", "softmax", "log_softmax"])
def test_a_batch_equals_its_instances_one_by_one(
    rows: np.ndarray[Any, Any], batch_size: int, last: nn.Module | None
) -> None:
    explainer = Explainer(net(last=last), NAMES, preset="EpsilonPlus", batch_size=batch_size)
    every = explainer.explain_batch(rows)
    assert len(set(every.targets)) > 1, "the instances should be of several classes"
    for row, found in zip(rows, every, strict=True):
        alone = explainer.explain(row)
        np.testing.assert_allclose(found.relevance, alone.relevance, rtol=1e-9)
        assert found.output == pytest.approx(alone.output) and found.delta == pytest.approx(alone.delta)
        assert found.target == alone.target


def test_a_softmax_changes_nothing_but_the_prediction(rows: np.ndarray[Any, Any]) -> None:
    plain, soft = (Explainer(net(last=last)).explain_batch(rows) for last in (None, nn.Softmax(-1)))
    np.testing.assert_allclose(plain.relevance, soft.relevance, rtol=1e-9)
    np.testing.assert_allclose(plain.deltas, soft.deltas, atol=1e-9)


def test_each_instance_may_have_a_target_of_its_own(rows: np.ndarray[Any, Any]) -> None:
    explainer = Explainer(net(), class_names=["a", "b", "c"])
    mixed = explainer.explain_batch(rows, target=["a", 1, None, "c", np.int64(0), "b", 2])
    assert mixed.targets[:2] == [0, 1] and mixed.targets[3:] == [2, 0, 1, 2]
    for i, target in ((0, "a"), (1, "b"), (3, "c")):
        np.testing.assert_allclose(mixed[i].relevance, explainer.explain(rows[i], target).relevance, rtol=1e-12)


def test_one_logit_tells_two_classes(rows: np.ndarray[Any, Any]) -> None:
    model = net(1)
    explainer = Explainer(model, NAMES, ["no", "yes"])
    every = explainer.explain_batch(rows)
    logits = model(torch.tensor(rows))[:, 0].detach().numpy()
    assert [r.target_name for r in every] == ["yes" if z > 0 else "no" for z in logits]
    np.testing.assert_allclose(every.outputs, abs(logits))
    yes, no = explainer.explain(rows[0], "yes"), explainer.explain(rows[0], "no")
    np.testing.assert_allclose(yes.relevance, -no.relevance)
    # the mirror image is what a network with the negated last layer gives
    mirrored = net(1)
    with torch.no_grad():
        mirrored[2].weight.neg_()
        mirrored[2].bias.neg_()
    wanted = Explainer(mirrored, NAMES, task="regression").explain(rows[0])
    np.testing.assert_allclose(no.relevance, wanted.relevance, rtol=1e-9)
    with pytest.raises(rp.RelpropError, match="treats the two signs differently"):
        Explainer(model, NAMES, ["no", "yes"], "z_plus").explain(rows[0], "no")


def test_outputs_of_one_dimension_and_regressions(rows: np.ndarray[Any, Any]) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).squeeze(-1)

    flat, deep = Explainer(Flat()).explain_batch(rows), Explainer(net(1), task="regression").explain_batch(rows)
    np.testing.assert_allclose(flat.relevance, deep.relevance, rtol=1e-12)
    assert flat[0].target_name == "output"
    with pytest.raises(rp.RelpropError, match="say which to explain"):
        Explainer(net(3), task="regression").explain(rows[0])
    assert Explainer(net(3), task="regression").explain(rows[0], 2).target_name == "output 2"


def test_images_are_instances_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()
    pictures = np.random.default_rng(0).normal(size=(3, 2, 6, 6)).astype(np.float32)
    found = Explainer(model, preset=rp.EpsilonPlusFlat()).explain_batch(pictures)
    assert found.relevance.shape == pictures.shape
    one = Explainer(model, preset=rp.EpsilonPlusFlat()).explain(pictures[0])
    np.testing.assert_allclose(one.relevance, found[0].relevance, rtol=1e-4, atol=1e-6)
    assert Result.from_json(one.to_json()).relevance.shape == (2, 6, 6)


def test_rules_by_layer_index_and_name(rows: np.ndarray[Any, Any]) -> None:
    model = net()
    explainer = Explainer(model, NAMES, preset={0: "z_plus", "2": rp.Epsilon(0.1)})
    wanted = rp.LRP(model, [(rp.Name("0"), rp.ZPlus()), (rp.Name("2"), rp.Epsilon(0.1))]).explain(
        torch.tensor(rows[:1]), target=0
    )
    np.testing.assert_allclose(explainer.explain(rows[0], 0).relevance, wanted.relevance[0].numpy())
    assert explainer.layers() == ["0", "1", "2"]
    changed = explainer.set_composite_rule({2: "gamma"}).explain(rows[0], 0)
    assert not np.allclose(changed.relevance, wanted.relevance[0].numpy())
    with pytest.raises(rp.RelpropError, match="index 7: the model has layers 0 to 2"):
        explainer.set_composite_rule({7: "gamma"})
    with pytest.raises(rp.RelpropError, match="unknown rule 'gama'"):
        explainer.set_composite_rule({0: "gama"})
    with pytest.raises(rp.RelpropError, match="no layer is named '3'; there are: 0, 1, 2"):
        explainer.set_composite_rule({"3": "gamma"})
    with pytest.raises(rp.RelpropError, match=r"given to Name\('1'\), where nothing ran that it serves"):
        explainer.set_composite_rule({1: "gamma"}).explain(rows[0])


def test_relevance_at_layers(rows: np.ndarray[Any, Any]) -> None:
    model = net()
    found = Explainer(model, preset="zero").explain_with_layer_relevances(rows[0], 1)
    assert list(found.layers) == ["0", "1", "2"]
    assert found.layers["2"].tolist() == [0.0, found.output, 0.0]
    np.testing.assert_allclose(found.layers["1"].sum(), found.output - model[2].bias[1].item())
    with pytest.raises(rp.RelpropError, match="no module or parameter is named '9'"):
        Explainer(model).explain_with_layer_relevances(rows[0], 1, ["9"])


def test_layers_that_do_not_run_have_no_relevance(rows: np.ndarray[Any, Any]) -> None:
    model = net()
    model[1].add_module("unused", nn.Linear(3, 3).double())
    found = Explainer(model).explain_with_layer_relevances(rows[0], 1)
    assert list(found.layers) == ["0", "2"] and "1.unused" in Explainer(model).layers()
    with pytest.raises(rp.RelpropError, match="passed '1.unused'"):
        Explainer(model).explain_with_layer_relevances(rows[0], 1, ["1.unused"])


def test_comparing_rules(rows: np.ndarray[Any, Any]) -> None:
    explainer = Explainer(net(), NAMES)
    found = explainer.compare_rules(rows[0], 0, ["epsilon", "z_plus", rp.Gamma(2.0)])
    assert isinstance(found, Comparison) and list(found) == ["epsilon", "z_plus", "Gamma(gamma=2.0)"]
    np.testing.assert_allclose(
        found["z_plus"].relevance, Explainer(net(), NAMES, preset="z_plus").explain(rows[0], 0).relevance
    )
    assert json.loads(found.to_json())["epsilon"]["target"] == 0


def test_results_as_dict_and_json(rows: np.ndarray[Any, Any]) -> None:
    every = Explainer(net(), NAMES).explain_batch(rows)
    assert isinstance(every[:2], Results) and len(every[:2]) == 2
    again = Result.from_json(every[1].to_json())
    np.testing.assert_array_equal(again.relevance, every[1].relevance)
    assert again.feature_names == tuple(NAMES) and again.delta == every[1].delta
    assert [d["output"] for d in json.loads(every.to_json())] == every.outputs.tolist()
    assert "age" in str(every[0]) and "delta" in str(every[0])
    strengths = dict(every.mean_strength())
    assert strengths["age"] == pytest.approx(abs(every.relevance[:, 0]).mean())


def test_frames_in_and_out(rows: np.ndarray[Any, Any]) -> None:
    pandas = pytest.importorskip("pandas", reason="frames need pandas")
    frame = pandas.DataFrame(rows, columns=NAMES, index=list("tuvwxyz"))
    explainer = Explainer(net(), NAMES, ["a", "b", "c"])
    every = explainer.explain_batch(frame)
    out = every.to_frame()
    assert list(out.columns) == [*NAMES, "target", "output", "delta"] and list(out.index) == list("tuvwxyz")
    np.testing.assert_allclose(out[NAMES].to_numpy(), explainer.explain_batch(rows).relevance)
    for one in (explainer.explain(frame.iloc[2]), explainer.explain(frame.iloc[[2]])):
        np.testing.assert_allclose(one.relevance, every[2].relevance)
        assert one.label == "v"
    assert list(every[0].to_frame().index) == NAMES
    assert list(explainer.compare_rules(rows[0]).to_frame().columns) == ["epsilon", "gamma", "alpha_beta", "z_plus"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="height"), "columns are missing: 'height'"),
        (lambda f: f.rename(columns={"height": "heigth"}), r"missing: 'height' \(nearest: 'heigth'\)"),
        (lambda f: f.assign(extra=1.0), "the model does not know: 'extra'"),
        (lambda f: f[["height", "age", "weight", "pulse"]], "another order.*column 0 is 'height', the model has 'age'"),
        (lambda f: f.assign(weight="heavy"), "column 'weight' holds 'heavy', which is no number"),
        (lambda f: f.assign(weight=float("nan")), "7 entries are NaN or infinite, the first in row 0, column 'weight'"),
    ],
)
def test_a_frame_that_does_not_fit(rows: np.ndarray[Any, Any], change: Any, message: str) -> None:
    pandas = pytest.importorskip("pandas", reason="frames need pandas")
    frame = change(pandas.DataFrame(rows, columns=NAMES))
    with pytest.raises(rp.RelpropError, match=message):
        Explainer(net(), NAMES).explain_batch(frame)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: Explainer(net(), NAMES).explain_batch(r[0]), r"instances in rows, got an array of shape \(4,\)"),
        (lambda r: Explainer(net(), NAMES).explain(r), "28 features"),
        (lambda r: Explainer(net(), NAMES).explain(3.0), "at least one feature"),
        (lambda r: Explainer(net(), NAMES[:3]).explain(r[0]), r"4 features \(shape \(4,\)\), the names are 3"),
        (lambda r: Explainer(net(), ["a", "a", "b", "c"]), "holds 'a' twice"),
        (lambda r: Explainer(net(), "abcd"), "a list of names"),
        (lambda r: Explainer(net(), NAMES, ["x", "y"]).explain(r[0]), "2 entries, the model 3 classes"),
        (lambda r: Explainer(net(), NAMES, ["x", "y", "z"]).explain(r[0], "xx"), "nearest names: x"),
        (lambda r: Explainer(net(), NAMES).explain(r[0], 3), "outputs 0 to 2"),
        (lambda r: Explainer(net(), NAMES).explain(r[0], 1.5), "an index, a name"),
        (lambda r: Explainer(net(), NAMES).explain_batch(r, [0, 1]), "2 entries for 7 instances"),
        (lambda r: Explainer(net(), NAMES, preset="EpsilonPluss"), "nearest names: EpsilonPlus"),
        (lambda r: Explainer(net(), NAMES, task="ranking"), '"classification" or "regression"'),
        (lambda r: Explainer(net(), NAMES, batch_size=0), "at least 1"),
        (lambda r: Explainer(nn.Conv2d(2, 2, 1)).explain(np.ones((2, 3, 3))), r"output is \(1, 2, 3, 3\)"),
        (lambda r: Explainer(net(), NAMES).explain(np.array(["a", "b", "c", "d"])), "column 'age' holds 'a'"),
    ],
)
def test_bad_input(rows: np.ndarray[Any, Any], call: Any, message: str) -> None:
    with pytest.raises(rp.RelpropError, match=message):
        call(rows)
