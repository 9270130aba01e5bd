"""What a page tells beside the maps: the prediction, the books, the plan, and how to repeat it."""

from __future__ import annotations

import ast
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from relprop import presets, rules
from relprop.errors import InputError

_MOST_CLASSES = 5


@dataclass(frozen=True)
class Bar:
    """A number with a bar, as a share of the frame from 0 to 100: where it begins, how long it is."""

    label: str
    value: str
    share: str
    start: float
    length: float
    zero: float
    sign: str = ""
    mark: bool = False


def bars(rows: Sequence[tuple[str, float, str, str]], *, low: float = 0.0, high: float = 0.0) -> list[Bar]:
    """Bars on one axis with its zero in place. A row is (label, number, how it is written, its share as text)."""
    numbers = [row[1] for row in rows]
    low, high = min(low, 0.0, *numbers), max(high, 0.0, *numbers)
    span = (high - low) or 1.0
    zero = -100 * low / span
    made = []
    for label, number, value, share in rows:
        length = 100 * abs(number) / span
        start = zero if number >= 0 else zero - length
        made.append(Bar(label, value, share, start, length, zero, "for" if number >= 0 else "against"))
    return made


# -- the prediction ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """The strongest classes and the explained one, and what their numbers are."""

    rows: tuple[Bar, ...]
    count: int
    note: str


def class_index(explanation: Any, sample: int) -> int | None:
    """The explained class, where it is one class."""
    target = getattr(explanation, "target", None)
    if isinstance(target, torch.Tensor):
        if target.is_floating_point() or target.dtype == torch.bool:
            return None
        if target.ndim == 1 and sample < len(target):
            return int(target[sample])
        return int(target) if target.numel() == 1 else None
    return target if isinstance(target, int) and not isinstance(target, bool) else None


def target_name(explanation: Any, sample: int, names: Sequence[str]) -> str:
    """The explained class or output as people write it; empty where there is nothing to say."""
    if hasattr(explanation, "target_name"):
        return str(explanation.target_name)
    index = class_index(explanation, sample)
    if index is not None:
        return _class(index, names)
    target = getattr(explanation, "target", None)
    if target is None or isinstance(target, str):
        return target or ""
    text = str(getattr(target, "tolist", lambda: target)())
    return "the chosen target" if callable(target) or len(text) >= 60 else f"target {text}"


def _class(index: int, names: Sequence[str]) -> str:
    return f"{names[index]} ({index})" if 0 <= index < len(names) else f"target {index}"


_ROUNDING = 1e-2  # of a softmax in half precision, over many classes


def prediction(explanation: Any, sample: int, names: Sequence[str]) -> Prediction | None:
    """The output of a classifier, [N, classes] with more than one class; otherwise nothing.

    A row of numbers is one of classes where one of them is explained, or where they have names.
    """
    scores = _scores(getattr(explanation, "output", None), sample)
    explained = class_index(explanation, sample)
    if scores is None or (explained is None and not names):
        return None
    if names and len(names) != len(scores):
        raise InputError(f"{len(names)} class names were given, but the output has {len(scores)} classes")
    plan = getattr(explanation, "plan", None)
    squashed = any("is a softmax or sigmoid" in note for note in getattr(plan, "notes", ()))
    shares, note = _shares(scores, squashed)
    best = np.argsort(-scores, kind="stable")[:_MOST_CLASSES].tolist()
    if explained is not None and 0 <= explained < len(scores) and explained not in best:
        best.append(explained)
    written = [(_class(i, names), float(shares[i]), f"{scores[i]:.4g}", f"{shares[i]:.1%}") for i in best]
    made = bars(written, high=1.0)
    rows = tuple(replace(bar, mark=i == explained) for i, bar in zip(best, made))
    return Prediction(rows, len(scores), note)


def _scores(output: Any, sample: int) -> np.ndarray | None:
    if not isinstance(output, (torch.Tensor, Mapping)):
        output = getattr(output, "logits", None)
    if isinstance(output, Mapping):
        output = output.get("logits")
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or not output.is_floating_point():
        return None
    if output.shape[1] < 2 or sample >= len(output):
        return None
    scores = output[sample].detach().to("cpu", torch.float64).numpy()
    return scores if bool(np.isfinite(scores).all()) else None


def _shares(scores: np.ndarray, squashed: bool) -> tuple[np.ndarray, str]:
    """Probabilities: those of the output if it holds them, otherwise by softmax.

    Scores between 0 and 1 are some only if they add up to one, or came from a softmax or sigmoid: small logits are not.
    """
    if scores.min() >= 0 and scores.max() <= 1 and (squashed or abs(scores.sum() - 1) < _ROUNDING):
        return scores, "the output's own"
    powers = np.exp(scores - scores.max())
    return powers / powers.sum(), "by softmax of the scores"


# -- the books ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Books:
    """An audit as a bar and a table.

    good   whether they balance; None for a gradient method, which has none
    """

    rows: tuple[Bar, ...]
    verdict: str
    good: bool | None
    remarks: tuple[str, ...] = ()


def books(explanation: Any) -> Books | None:
    """The books of an explanation; of a batch they are those of all samples."""
    audit = getattr(explanation, "audit", None)
    if audit is None:
        delta = getattr(explanation, "delta", None)
        return None if delta is None else _delta(explanation, float(delta))
    if not audit.conserving:
        return Books((), "A gradient method: its map is not relevance, and nothing is conserved.", None)
    base = abs(audit.seed) or 1.0
    rows = bars([(label, value, *_entry(value, base)) for label, value in audit.rows()])
    verdict = (
        f"{'Balanced' if audit.balanced else 'Not balanced'}: {audit.unexplained_share:.1e} of the absolute "
        f"relevance is unexplained ({audit.tolerance:.0e} is tolerated)."
    )
    remarks = [f"cut, no relevance passes: {path or '(model)'}.{name}" for path, name in audit.cuts]
    remarks += [f"native gradient by request: {name}" for name in audit.native]
    if not audit.balanced:
        remarks += [f"{name}: {value:+.3g}" for name, value in audit.worst]
    relevance = getattr(explanation, "relevance", None)
    if isinstance(relevance, torch.Tensor) and relevance.ndim > 1 and len(relevance) > 1:
        remarks.append(f"the books are those of all {len(relevance)} samples together")
    return Books(tuple(rows), verdict, audit.balanced, tuple(remarks))


def _delta(explanation: Any, delta: float) -> Books:
    """A row of a table knows its output and what did not reach the features."""
    parts = [("output", float(explanation.output)), ("features", float(explanation.output) - delta)]
    rows = [*parts, ("biases and stabilisers", delta)]
    base = abs(rows[0][1]) or 1.0
    made = bars([(label, value, *_entry(value, base)) for label, value in rows])
    return Books(tuple(made), "What does not reach the features was absorbed by biases and stabilisers.", None)


def _entry(value: float, base: float) -> tuple[str, str]:
    """A number of the books and its share of the seed, without what rounding leaves on a zero."""
    share = f"{value / base:.2%}"
    return f"{0.0 if abs(value) < 1e-12 * base else value:.5g}", "0.00%" if share == "-0.00%" else share


# -- the plan ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanTable:
    """Every operation with its rule, and how many got which."""

    composite: str
    rows: tuple[tuple[str, str, str, str, str], ...]
    counts: tuple[tuple[int, str, str], ...]
    remarks: tuple[str, ...]


def plan_table(explanation: Any) -> PlanTable | None:
    """(site, module, kind, rule, why) for every operation."""
    plan = getattr(explanation, "plan", None)
    if plan is None:
        return None
    modules = [getattr(site.module_type, "__name__", "") for site, _ in plan]
    rows = tuple((site, m, kind, rule, why) for m, (site, kind, rule, why) in zip(modules, plan.rows()))
    counted = Counter((site.kind, str(decision.rule)) for site, decision in plan)
    counts = tuple((n, kind, rule) for (kind, rule), n in counted.most_common())
    cuts = tuple(f"cut, no relevance passes: {path or '(model)'}.{name}" for path, name in plan.cuts)
    return PlanTable(str(plan.composite), rows, counts, (*cuts, *plan.notes))


# -- how to repeat it --------------------------------------------------------------------------------------------------


def snippet(explanation: Any, sample: int) -> str:
    """Python that makes this explanation again, given the model and its input; empty where there is no plan."""
    plan = getattr(explanation, "plan", None)
    if plan is None or not hasattr(explanation, "relevance") or hasattr(explanation, "tokens"):
        return ""
    written = written_rules(str(plan.composite))
    lines = ["import relprop as rp", ""]
    if written is None:
        lines += ["rules = ...  # as in the plan above", ""]
    unknown = "  # ... stands for a tensor" if written is not None and "..." in written else ""
    lines.append(f"lrp = rp.LRP(model, {written or 'rules'}){unknown}")
    lines.append(f"e = lrp.explain(x{_target(explanation, sample)})")
    lines.append('e.to_html("explanation.html")')
    return "\n".join(lines)


def written_rules(name: str) -> str | None:
    """A preset's or rule's name as Python code, or None where the name is free text.

    A tensor among its arguments, which the name does not show, becomes ``...``.
    """
    try:
        tree = ast.parse(name.replace("<tensor>", "..."), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        return None
    if not (hasattr(presets, tree.func.id) or hasattr(rules, tree.func.id)):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if node is not tree.func:
                return None
            node.id = f"rp.{node.id}"
    return ast.unparse(tree)


def _target(explanation: Any, sample: int) -> str:
    index = class_index(explanation, sample)
    target = getattr(explanation, "target", None)
    if isinstance(target, torch.Tensor) and target.numel() > 1 and not target.is_floating_point():
        listed = target.tolist()
        return f", target=torch.tensor({listed})" if target.numel() <= 16 else ", target=..."
    if index is not None:
        return f", target={index}"
    if target is None:
        return ""
    return f", target={target!r}" if isinstance(target, tuple) else ", target=..."


def versions() -> list[tuple[str, str]]:
    """What took part, with its version."""
    found = [("Python", platform.python_version())]
    for package in ("torch", "numpy"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:  # a torch that was built and not installed has no metadata
            found.append((package, str(getattr({"torch": torch, "numpy": np}[package], "__version__", "unknown"))))
    return [("relprop", version("relprop")), *found]
