"""What the model does not take: the error says what was probably meant, and a warning points at the user's line."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.explain.lrp import KEYWORDS
from tests.support.state import assert_same_state, snapshot


class Net(nn.Module):
    """Takes a second input that changes nothing, by a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 2)

    def forward(self, x: Tensor, mask: Any = None) -> Tensor:
        return self.dense(x)


class Hands(Net):
    """Hands every further keyword on to a function that knows one."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.scaled(x, **kwargs)

    def scaled(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.dense(x)


class Takes(Net):
    """Takes any keyword, and says which."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        self.taken = kwargs
        return self.dense(x)


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": "dense"}, r"explain has no keyword 'layer', .* Net\.forward\(x, mask\); nearest names: layers"),
        ({"target_": 1}, r"no keyword 'target_'.*nearest names: target, targets"),
        ({"targts": [1]}, r"no keyword 'targts'.*nearest names: targets, target"),
        ({"msk": None}, r"no keyword 'msk'.*nearest names: mask$"),
        ({"zzz": 1}, r"no keyword 'zzz', and neither has the model, Net\.forward\(x, mask\)$"),
    ],
)
def test_a_keyword_of_nobody(given: dict[str, Any], message: str) -> None:
    model = Net()
    before = snapshot(model)
    with pytest.raises(rp.InputError, match=message) as caught:
        rp.LRP(model).explain(X, **given)
    assert isinstance(caught.value.__cause__, TypeError)  # the model's own error stays to be read
    assert_same_state(before, snapshot(model))


def test_plan_and_check_take_what_the_model_takes() -> None:
    lrp = rp.LRP(Net())
    with pytest.raises(rp.InputError, match=r"plan has no keyword 'target', and neither"):
        lrp.plan(X, target=1)
    with pytest.raises(rp.InputError, match=r"check has no keyword 'targt'.*nearest names: target$"):
        lrp.check(X, targt=1)
    for call in (lrp.plan, lrp.check, lrp.explain):
        with pytest.raises(rp.InputError, match=rf"{call.__name__} was given no input.*Net\.forward\(x, mask\)"):
            call()


def test_a_keyword_that_is_handed_on() -> None:
    lrp = rp.LRP(Hands(), rp.Epsilon(0))
    assert torch.equal(lrp.explain(X, target=0, scale=2.0).explained, 2 * lrp.explain(X, target=0).explained)
    with pytest.raises(rp.InputError, match=r"no keyword 'layer'.*nearest names: layers"):
        lrp.explain(X, layer="dense")


def test_a_keyword_that_any_model_takes_is_the_models() -> None:
    model = Takes()
    given = {"output_attentions": False, "audio": 1, "labels": None, "weights": 2, "state": 3, "player": 4}
    rp.LRP(model).explain(X, target=0, **given)
    assert model.taken == given


def test_one_that_is_nearly_ours_is_warned_of_at_the_users_line() -> None:
    model = Takes()
    lrp = rp.LRP(model)
    with pytest.warns(rp.RelpropWarning, match=r"layer= was handed to Takes\.forward.*explain's own is layers") as seen:
        lrp.explain(X, target=0, layer="dense")
    assert model.taken == {"layer": "dense"}
    assert seen[0].filename == __file__
    line = Path(__file__).read_text().splitlines()[seen[0].lineno - 1]
    assert line.strip().startswith("lrp.explain(X, target=0, layer")


def test_one_that_is_nearly_ours_may_be_a_models_own() -> None:
    class Seeds(Net):
        def forward(self, x: Tensor, seeds: int = 0, **kwargs: Any) -> Tensor:  # type: ignore[override]
            return self.dense(x)

    rp.LRP(Seeds()).explain(X, target=0, seeds=3)


def test_what_is_missed_by_a_condition_is_warned_of_at_the_users_line() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    lrp = rp.LRP(model)
    x = torch.zeros(1, 3)
    with pytest.warns(rp.RelpropWarning, match="no relevance passes 0") as seen:
        lrp.explain(x, target=0, seed="one", conditions={"0": rp.concepts.Mask(torch.zeros(2, dtype=torch.bool))})
    assert {w.filename for w in seen} == {__file__}


def test_our_keywords_are_known() -> None:
    assert {"target", "targets", "layers", "create_graph", "wrt"} <= KEYWORDS and "kwargs" not in KEYWORDS


ARRAY = np.ones((2, 3), dtype=np.float32)


class Nested(Net):
    """Takes its inputs in containers, or any way."""

    def forward(self, x: Any) -> Tensor:  # type: ignore[override]
        return self.dense(x["pair"][1] if isinstance(x, dict) else x)


class Converts(Net):
    """Makes a tensor of whatever it is given, so that nothing of ours reaches the output."""

    def forward(self, x: Any) -> Tensor:  # type: ignore[override]
        return self.dense(torch.as_tensor(x, dtype=torch.float32))


@pytest.mark.parametrize("call", ["explain", "plan", "check"])
@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (Net(), ARRAY, r"input 0 is a numpy array, .*torch\.from_numpy\(array\).*relprop\.tabular\.Explainer"),
        (Net(), ARRAY.tolist(), r"input 0 is made of plain numbers, .*torch\.tensor\(numbers\)"),
        (Net(), 3.0, r"input 0 is made of plain numbers"),
        (Net(), [[1, 2, 3]], r"input 0 is made of plain numbers"),
        (Nested(), {"pair": (X, ARRAY)}, r"input 0\.pair\.1 is a numpy array"),
        (Nested(), {"pair": [0, [1.0]]}, r"input 0\.pair is made of plain numbers"),
        (Net(), "cat.jpg", r"input 0 is a text, 'cat\.jpg'.*relprop\.models\.read_photo"),
        (Net(), None, r"no input is a tensor: input 0 is of type NoneType"),
    ],
)
def test_an_input_that_is_no_tensor(call: str, model: nn.Module, given: Any, message: str) -> None:
    with pytest.raises(rp.InputError, match=message):
        getattr(rp.LRP(model), call)(given)


@pytest.mark.parametrize("given", [ARRAY, ARRAY.tolist()])
def test_an_input_that_the_model_itself_makes_a_tensor_of(given: Any) -> None:
    with pytest.raises(rp.InputError, match=r"input 0 is (a numpy array|made of plain numbers)"):
        rp.LRP(Converts()).explain(given, target=0)


def test_what_a_model_takes_beside_tensors_is_no_matter() -> None:
    class Sized(Net):
        def forward(self, x: Tensor, sizes: Any, note: str) -> Tensor:  # type: ignore[override]
            return self.dense(x) * float(np.sum(sizes))

    for sizes in ([1, 2], np.array([1, 2])):
        e = rp.LRP(Sized(), rp.Epsilon(0)).explain(X, sizes, "three", target=0)
        assert e.relevance.shape == X.shape


def test_a_failure_of_the_models_own_is_handed_on() -> None:
    class Breaks(Net):
        def forward(self, x: Tensor, sizes: Any) -> Tensor:  # type: ignore[override]
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        rp.LRP(Breaks()).explain(X, [1, 2])


def test_inputs_that_are_too_many_or_too_few() -> None:
    lrp = rp.LRP(nn.Linear(3, 2))
    with pytest.raises(rp.InputError, match=r"Linear\.forward\(input\), does not .* too many .* by name, target=281$"):
        lrp.explain(X, 281)
    with pytest.raises(rp.InputError, match=r"Net\.forward\(x, mask\), does not .* too many positional arguments$"):
        rp.LRP(Net()).explain(X, X, X)
    with pytest.raises(rp.InputError, match=r"does not take these inputs: missing a required argument: 'x'$"):
        rp.LRP(Net()).plan(mask=X)


def test_a_mapping_of_the_models_own_inputs() -> None:
    with pytest.raises(rp.InputError, match=r"the model's own inputs, x, mask: .* keywords, explain\(\*\*inputs\)"):
        rp.LRP(Net()).explain({"x": X, "mask": None})
    assert rp.LRP(Nested()).explain({"pair": (X, X)}, target=0).audit.balanced  # a model may take one


def test_a_class_is_no_model() -> None:
    with pytest.raises(rp.InputError, match="got the class Net: make one"):
        rp.LRP(Net)  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [3, []])
def test_targets_are_several(targets: Any) -> None:
    with pytest.raises(rp.InputError, match=r"targets takes a list of at least one target, got"):
        rp.LRP(Net()).explain(X, targets=targets)


def test_no_layers_and_a_module_for_a_place() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 2)))
    lrp = rp.LRP(model)
    assert lrp.explain(X, target=0, layers=None).layers == {}
    with pytest.raises(rp.InputError, match=r"layers: a place is named by a string, not by the module itself: '0'"):
        lrp.explain(X, target=0, layers=model[0])
    with pytest.raises(rp.InputError, match=r"layers: .* not by the module itself: '0\.0'"):
        lrp.explain(X, target=0, layers=[model[0][0]])


def test_a_place_whose_parent_is_there_may_have_meant_a_module_or_a_parameter() -> None:
    block = nn.Sequential(OrderedDict(fully1=nn.Linear(3, 2), fully2=nn.Linear(2, 2)))
    model = nn.Sequential(OrderedDict(block=block))
    lrp = rp.LRP(model)
    with pytest.raises(rp.InputError, match=r"'block\.fully9' is no module, .*nearest names: block\.fully[12], "):
        lrp.explain(X, target=0, layers="block.fully9")
    with pytest.raises(rp.InputError, match=r"'block\.fully1\.wait' is no .*nearest names: block\.fully1\.weight"):
        lrp.explain(X, target=0, layers="block.fully1.wait")


def test_functions_that_take_an_lrp_refuse_a_model() -> None:
    c, model = rp.concepts, Net()
    calls: dict[str, Any] = {
        "CRP": lambda: c.CRP(model),
        "clrp": lambda: c.clrp(model, X),
        "bilrp": lambda: c.bilrp(model, X[:1], X[1:]),
        "bilrp ": lambda: c.bilrp((rp.LRP(model), model), X[:1], X[1:]),
        "walk_relevance": lambda: c.walk_relevance(model, X, layers="dense"),
        "explain_in": lambda: c.explain_in(c.DFT(), model, X),
        "unit_relevance": lambda: c.unit_relevance(model, [X], "dense"),
        "reference_samples": lambda: c.reference_samples(model, [X], "dense"),
        "expert_conditions": lambda: c.expert_conditions(model, "dense", X),
    }
    for name, call in calls.items():
        with pytest.raises(rp.InputError, match=rf"^{name.strip()} takes an LRP, got Net: LRP\(model, composite\)"):
            call()
    with pytest.raises(rp.InputError, match=r"attribution_graph takes a CRP, got LRP: CRP\(lrp\)"):
        c.attribution_graph(rp.LRP(model), X, layers=["dense", "dense"])
    with pytest.raises(rp.InputError, match=r"a basis is DFT\(\), .* got 'dft'"):
        c.explain_in("dft", rp.LRP(model), X)
    with pytest.raises(rp.InputError, match="scores are tensors by the layers' names.* got 3"):
        c.least(3, 2)


def test_arrays_are_refused_where_the_model_runs_by_itself() -> None:
    c, model = rp.concepts, Net()
    for call in (
        lambda: c.activation_patching(model, ARRAY, ARRAY, "dense", metric=0),
        lambda: c.bilrp(rp.LRP(model), ARRAY[:1], ARRAY[1:]),
    ):
        with pytest.raises(rp.InputError, match=r"input 0 is a numpy array, .*torch\.from_numpy"):
            call()


def test_metrics_take_a_model_and_tensors() -> None:
    model, m = Net(), rp.metrics
    e = rp.LRP(model, rp.Zero()).explain(X, target=0)
    with pytest.raises(rp.InputError, match="a metric takes the model itself, got LRP"):
        m.flipping_curve(rp.LRP(model), X, e.relevance)
    with pytest.raises(rp.InputError, match="x must be a tensor, got ndarray"):
        m.area_between_curves(model, X.numpy(), e.relevance)
    with pytest.raises(rp.InputError, match="relevance must be a tensor, got ndarray"):
        m.symmetric_relevance_gain(model, X, e.relevance.numpy())
    torch.testing.assert_close(m.flipping_curve(model, X, e), m.flipping_curve(model, X, e.relevance))


def test_a_plan_says_where_nothing_ran_and_keeps_to_its_lines() -> None:
    plan = rp.LRP(Net(), [(rp.Name("dense", *[f"a_long_name_of_nothing.{i}" for i in range(9)]), rp.Epsilon())]).plan(X)
    assert plan.rule("dense") == "Epsilon()"
    with pytest.raises(rp.InputError, match=r"no operation ran in a module named 'dens'; nearest names: dense"):
        plan.rule("dens")
    (row,) = plan.rows()
    line = next(line for line in str(plan).splitlines() if line.startswith(row[0]))
    assert len(row[3]) > 200 and len(line) < 130 and line.endswith(" ...") and row[3][:50] in line
