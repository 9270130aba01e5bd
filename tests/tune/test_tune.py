"""Tuning: what is found is what was best, a study goes on where it ended, and mistakes cost nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop as rp
from relprop.adapters.pnpxai import LRPUniformEpsilon
from relprop.tuning import Groups, Presets, Tuned
from tests.support.state import assert_same_state, snapshot

pytest.importorskip("optuna", reason="tuning is done with Optuna")

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

FAST: dict[str, Any] = {"metric_options": {"steps": 3}, "progress": False}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3)
    ).eval()


@pytest.fixture
def model() -> nn.Sequential:
    return network()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, 1, 8, 8)


def near_epsilon(wanted: float) -> Callable[..., Tensor]:
    """A metric that is best where relevance is that of one epsilon."""

    def close(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        best = rp.LRP(model, rp.Epsilon(wanted)).explain(x, target=target).relevance
        return -(relevance - best).flatten(1).norm(dim=1)

    return close


def rising() -> Callable[..., Tensor]:
    """A metric by which each trial is better than all before."""
    calls: list[int] = []

    def metric(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return torch.full((len(x),), float(len(calls)))

    return metric


def near(explainer: LRPUniformEpsilon) -> Callable[..., Tensor]:
    """A metric that is best where relevance is an explainer's."""

    def close(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        return -(relevance - explainer.attribute(x, target)).flatten(1).norm(dim=1)

    return close


def test_it_finds_what_is_best(x: Tensor) -> None:
    model = nn.Linear(8, 3)
    data = torch.randn(6, 8)
    space = Groups(groups={"all": rp.Kind("linear")}, rules=("epsilon",), entry=("as the others",))
    found = rp.tune(rp.LRP(model, rp.Epsilon(1.0)), [data], metric=near_epsilon(0.03), trials=30, space=space)
    assert 0.01 < found.params["all.epsilon"] < 0.09
    assert found.value > found.baseline
    assert found.value == max(t.value for t in found.trials) and len(found.trials) == 30
    again = rp.tune(rp.LRP(model, rp.Epsilon(1.0)), [data], metric=near_epsilon(0.03), trials=30, space=space)
    assert again.params == found.params, "the same seed gives the same study"
    best = near_epsilon(0.03)(model, data, found.lrp.explain(data).relevance, model(data).argmax(1))
    assert float(best.mean()) == pytest.approx(found.value)


def test_groups_of_layers_and_their_rules(model: nn.Sequential, x: Tensor) -> None:
    before = snapshot(model)
    found = rp.tune(model, [x], trials=6, metric=rising(), progress=False)
    assert_same_state(before, snapshot(model))
    plan = rp.LRP(model, found.composite).plan(x)
    assert {"entry", "lower.rule", "middle.rule", "upper.rule"} <= set(found.params)
    rules = {"zero": "Zero", "epsilon": "Epsilon", "gamma": "Gamma", "z_plus": "ZPlus", "alpha_beta": "AlphaBeta"}
    assert plan.rule("6").startswith(rules[found.params["upper.rule"]])
    mine = Groups(groups={"convolutions": rp.Kind("conv"), "head": rp.Name("5", "6")}, rules=("gamma", "epsilon"))
    found = rp.tune(model, [x], trials=3, space=mine, **FAST)
    assert all({"convolutions.rule", "head.rule"} <= set(t.params) for t in found.trials)
    head = Groups(groups={"head": rp.Name("6")}, rules=("gamma",), entry=("as the others",))
    found = rp.tune(rp.LRP(model, rp.EpsilonPlus()), [x], trials=1, space=head, metric=rising(), progress=False)
    plan = found.lrp.plan(x)
    assert (plan.rule("0"), plan.rule("5")) == ("ZPlus()", "Epsilon()") and plan.rule("6").startswith("Gamma")


def test_rules_that_are_not_linear_are_kept() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x + self.inner(x).relu())

    start = rp.Composite([(rp.Kind("sum"), rp.Absolute()), (rp.Kind("linear"), rp.Epsilon())])
    data = [torch.randn(4, 4)]
    found = rp.tune(rp.LRP(Residual(), start), data, trials=2, metric=rising(), progress=False)
    assert found.improved
    assert "Absolute()" in str(rp.LRP(Residual(), found.composite).plan(torch.randn(1, 4)))


def test_presets(model: nn.Sequential, x: Tensor) -> None:
    found = rp.tune(model, [x], trials=8, space="presets", metric=rising(), progress=False)
    assert type(found.composite).__name__ == found.params["preset"]
    box = Presets(presets=(rp.EpsilonGammaBox,), bounds=(0.0, 1.0))
    found = rp.tune(model, [x], trials=3, space=box, metric=rising(), progress=False)
    assert isinstance(found.composite, rp.EpsilonGammaBox)
    assert (found.composite.low, found.composite.high) == (0.0, 1.0)
    assert found.composite.gamma == found.params["gamma"]


def test_an_explainer_that_says_what_may_be_tuned(model: nn.Sequential, x: Tensor) -> None:
    explainer = LRPUniformEpsilon(model)
    data = [(x, torch.zeros(6, dtype=torch.long))]
    found = rp.tune(explainer, data, trials=6, metric=near(explainer.set_kwargs(epsilon=1e-3)), progress=False)
    assert isinstance(found.explainer, LRPUniformEpsilon) and found.composite is None
    assert found.lrp.plan(x).composite == str(rp.UniformEpsilon(found.params["epsilon"]))
    assert found.explainer.epsilon == found.params["epsilon"] and explainer.epsilon == 0.25
    assert len({t.value for t in found.trials}) > 1, "the parameter changes the explanation"


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("area_between_curves", "maximize"),
        ("symmetric_relevance_gain", "maximize"),
        ("relative_conservation_error", "minimize"),
    ],
)
def test_metrics_know_their_direction(model: nn.Sequential, x: Tensor, metric: str, direction: str) -> None:
    options = {} if "conservation" in metric else {"steps": 2}
    found = rp.tune(model, [x], trials=4, metric=metric, metric_options=options, progress=False)
    best = max if direction == "maximize" else min
    assert found.direction == direction and found.value == best(t.value for t in found.trials)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning:quantus.*")
def test_a_metric_of_quantus(model: nn.Sequential, x: Tensor) -> None:
    quantus = pytest.importorskip("quantus", reason="scores with Quantus")
    named = rp.tune(model, [x], trials=3, metric="Sparseness", progress=False)
    made = rp.tune(model, [x], trials=3, metric=quantus.Sparseness(disable_warnings=True), progress=False)
    assert named.value == made.value and named.direction == "maximize"
    curve = rp.tune(
        model, [x], trials=2, metric="PixelFlipping", metric_options={"features_in_step": 16}, progress=False
    )
    assert curve.direction == "minimize"
    with pytest.raises(rp.RelpropError, match=r"unknown metric 'Sparsness'.*nearest names: Sparseness"):
        rp.tune(model, [x], metric="Sparsness")


def test_a_study_goes_on(model: nn.Sequential, x: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    first = rp.tune(model, [x], trials=3, study=path, **FAST)
    second = rp.tune(network(), [x], trials=7, study=path, **FAST)
    assert len(first.trials) == 3 and len(second.trials) == 7
    assert second.trials[:3] == first.trials
    third = rp.tune(model, [x], trials=5, study=path, **FAST)
    assert third.trials == second.trials and third.value == second.value


def test_an_interruption_loses_nothing(model: nn.Sequential, x: Tensor, tmp_path: Path) -> None:
    path, calls = tmp_path / "study.log", []

    def metric(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return relevance.flatten(1).norm(dim=1)

    found = rp.tune(model, [x], trials=9, metric=metric, study=path, progress=False)
    assert found.interrupted and sum(t.value is not None for t in found.trials) == 3  # the first call was the start's
    assert "it goes on from here" in str(found)
    on = rp.tune(model, [x], trials=9, metric=metric, study=path, progress=False)
    assert not on.interrupted and on.trials[:3] == found.trials[:3]
    assert sum(t.value is not None for t in on.trials) == 9 == len(on.trials)  # the interrupted one is run again


def test_a_failing_trial_does_not_end_the_study(model: nn.Sequential, x: Tensor) -> None:
    def metric(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) % 2 == 0:
            raise rp.AuditError("the books do not balance: too bad\nand more")
        return torch.ones(len(x))

    calls: list[int] = []
    found = rp.tune(model, [x], trials=6, metric=metric, progress=False)
    failed = [t for t in found.trials if t.value is None]
    assert len(failed) == 3 and failed[0].failed == "the books do not balance: too bad"
    assert "3 failed" in str(found)
    with pytest.raises(rp.RelpropError, match="none of 2 trials gave an explanation: no luck"):
        rp.tune(model, [x], trials=2, metric=refuse_after_first(), progress=False)


def test_a_metric_that_fails_costs_one_trial(model: nn.Sequential, x: Tensor, tmp_path: Path) -> None:
    calls: list[int] = []

    def metric(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("a mistake")
        return relevance.flatten(1).norm(dim=1)

    found = rp.tune(model, [x], trials=4, metric=metric, progress=False)
    assert [t.failed for t in found.trials] == ["", "ZeroDivisionError: a mistake", "", ""]


def test_the_start_is_kept_where_nothing_beats_it(model: nn.Sequential, x: Tensor) -> None:
    start = rp.LRP(model, rp.Epsilon(0.3))
    found = rp.tune(start, [x], trials=3, metric=near_epsilon(0.3), space=Groups(rules=("z_plus",)), progress=False)
    assert not found.improved and found.params == {} and found.value == found.baseline == 0.0
    assert found.composite.rows == start.composite.rows
    assert "nothing that was tried beats the start" in str(found)


def test_an_explainers_conservation_is_that_of_its_seed() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False), nn.Softmax(-1)).double()
    data = [torch.randn(5, 4).double()]
    for start in (LRPUniformEpsilon(model[:3], 1e-9), rp.LRP(model, rp.Zero())):
        found = rp.tune(start, data, trials=1, metric="relative_conservation_error", progress=False)
        assert found.baseline is not None and found.baseline < 1e-6


def test_metrics_that_explain_more_have_the_explainer(model: nn.Sequential, x: Tensor) -> None:
    pytest.importorskip("quantus", reason="tunes with one of its metrics")
    data = [(x, torch.zeros(6, dtype=torch.long))]
    options = {"nr_samples": 1, "disable_warnings": True}
    found = rp.tune(LRPUniformEpsilon(model), data, trials=1, metric="MaxSensitivity", metric_options=options)
    assert found.value > 0


def test_bounds_are_searched(x: Tensor) -> None:
    model = network()

    def close(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        best = rp.LRP(model, rp.EpsilonGammaBox(-2.0, 2.0)).explain(x, target=target).relevance
        return -(relevance - best).flatten(1).norm(dim=1)

    box = Presets(presets=(rp.EpsilonGammaBox,), bounds=((-5.0, -1.0), (1.0, 5.0)))
    found = rp.tune(rp.LRP(model, rp.Zero()), [x], metric=close, trials=4, space=box, progress=False)
    assert -5 <= found.params["low"] <= -1 and 1 <= found.params["high"] <= 5
    assert (found.composite.low, found.composite.high) == (found.params["low"], found.params["high"])


def test_optunas_log_is_left_as_it_was(model: nn.Sequential, x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    rp.tune(model, [x], trials=1, **FAST)
    assert optuna.logging.get_verbosity() == before and capsys.readouterr().err == ""


def refuse_after_first() -> Callable[..., Tensor]:
    calls: list[int] = []

    def metric(model: nn.Module, x: Tensor, relevance: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise rp.InputError("no luck")
        return torch.ones(len(x))

    return metric


def test_table_frame_plot_and_validation(model: nn.Sequential, x: Tensor, tmp_path: Path) -> None:
    found: Tuned = rp.tune(model, [x[:3], x[3:]], trials=5, validation=[x[:2]], **FAST)
    text = found.table(3)
    assert "area_between_curves (maximized), 5 trials, 0 failed" in text and "start" in text
    assert len(text.splitlines()) == 1 + 1 + 3 + 1 and "on data held back" in text
    values = [t.value for t in found.best()]
    assert values == sorted(values, reverse=True)
    if (pandas := pytest.importorskip("pandas", reason="frames need pandas")) is not None:
        frame = found.to_frame()
        assert isinstance(frame, pandas.DataFrame) and len(frame) == 5 and "entry" in frame.columns
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    assert found.save(tmp_path / "trials.png").stat().st_size > 5000
    assert len(found.picture().axes) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "area_between_curve"}, "unknown metric 'area_between_curve'; nearest of relprop's: area_between"),
        ({"metric": 3}, "a name or a function"),
        ({"direction": "up"}, '"maximize" or "minimize"'),
        ({"trials": 0}, "at least 1"),
        ({"space": "layers"}, '"groups", "presets"'),
        ({"space": 5}, "Groups or Presets"),
        ({"loader": []}, "gives no batches"),
        ({"loader": ["x"]}, "must give tensors"),
        ({"loader": [(torch.rand(2, 1, 8, 8), torch.zeros(3).long())]}, "2 inputs with 3 targets"),
        ({"lrp": 3}, "an LRP, a module or an explainer"),
        ({"study": "nowhere/at/all"}, "there is no such folder"),
        ({"study": "sqlite:///study.db"}, "the path of a file, not the address of a database"),
        ({"metric_options": {"patchs": 2}}, "unknown option 'patchs'; nearest names: patch"),
        ({"loader": [(torch.rand(2, 1, 8, 8), torch.rand(2))]}, "the indices of classes"),
    ],
)
def test_mistakes(model: nn.Sequential, x: Tensor, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"lrp": model, "loader": [x], "trials": 2, "progress": False, **change}
    with pytest.raises(rp.RelpropError, match=message):
        rp.tune(given.pop("lrp"), given.pop("loader"), **given)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (lambda: Groups(rules=("delta",)), "unknown rule 'delta'"),
        (lambda: Groups(epsilon=(0.0, 1.0)), "positive numbers"),
        (lambda: Groups(bounds=(1.0, -1.0)), "a low and a high one"),
        (lambda: Groups(bounds=((-3.0, -4.0), (1.0, 2.0))), "rising ranges"),
        (lambda: Groups(groups={"a": "layer1"}), "is no selector"),  # type: ignore[dict-item]
    ],
)
def test_spaces_are_checked_when_made(space: Callable[[], Any], message: str) -> None:
    with pytest.raises(rp.RelpropError, match=message):
        space()


def test_a_group_that_matches_nothing(model: nn.Sequential, x: Tensor) -> None:
    with pytest.raises(rp.RelpropError, match="group 'stem': .* matches nothing that runs"):
        rp.tune(model, [x], trials=1, space=Groups(groups={"stem": rp.Name("stem.*")}), progress=False)


def test_a_file_of_another_study_is_left_as_it_is(model: nn.Sequential, x: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    rp.tune(model, [x], trials=2, study=path, **FAST)
    kept = path.read_bytes()
    other = network()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1
    with pytest.raises(rp.RelpropError, match="was made for another model. Give another file, or the same model"):
        rp.tune(other, [x], trials=4, study=path, **FAST)
    with pytest.raises(rp.RelpropError, match="another metric: 'area_between_curves.steps=3.', now .*'relative_con"):
        rp.tune(model, [x], trials=4, study=path, metric="relative_conservation_error", progress=False)
    with pytest.raises(rp.RelpropError, match="another space"):
        rp.tune(model, [x], trials=4, study=path, space="presets", **FAST)
    start = rp.LRP(model, rp.Composite([(rp.Kind("relu"), rp.Gradient()), (rp.Kind("conv", "linear"), rp.Zero())]))
    with pytest.raises(rp.RelpropError, match="another space.*Gradient"):
        rp.tune(start, [x], trials=4, study=path, **FAST)
    with pytest.raises(rp.RelpropError, match=r"another metric: .*steps=3.*steps=2"):
        rp.tune(model, [x], trials=4, study=path, metric_options={"steps": 2}, progress=False)
    with pytest.raises(rp.RelpropError, match="was made for another data"):
        rp.tune(model, [x + 1], trials=4, study=path, **FAST)
    assert len(rp.tune(model, [x[3:], x[:3]], trials=2, study=path, **FAST).trials) == 2, "in another order"
    assert rp.tune(model, [x], trials=2, study=path, **FAST).trials
    assert len(path.read_bytes()) >= len(kept) and path.read_bytes()[: len(kept)] == kept
    path.write_text("something else\n")
    with pytest.raises(rp.RelpropError, match="is no study of relprop.tune; it was left as it is"):
        rp.tune(model, [x], trials=2, study=path, **FAST)
    assert path.read_text() == "something else\n"


def test_nothing_is_shown_where_there_is_no_terminal(
    model: nn.Sequential, x: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    rp.tune(model, [x], trials=2, metric_options={"steps": 2})
    assert capsys.readouterr().err == ""


def test_without_optuna_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['optuna'] = None; import relprop as rp, torch; rp.tune(torch.nn.Linear(2, 2), [])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'relprop[tune]'" in done.stderr.strip().splitlines()[-1]
