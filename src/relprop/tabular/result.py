"""What an explanation of a table is: a dataclass that becomes a dict, JSON, a frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relprop.errors import InputError
from relprop.extras import require

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Result:
    """The explanation of one instance.

    feature_names  one name a feature, or None (images)
    values         the instance, as it was given
    relevance      what each feature contributed, in the shape of the instance
    target         index of the explained output, and `target_name`
    output         the explained value: a logit, or a prediction
    delta          `output - relevance.sum()`: what biases and stabilisers absorbed
    rules          the composite's name
    layers         relevance at the outputs of modules by path, where asked for
    label          the row's label, where a frame gave one
    """

    feature_names: tuple[str, ...] | None
    values: Array
    relevance: Array
    target: int
    target_name: str
    output: float
    rules: str
    layers: Mapping[str, Array] = field(default_factory=dict)
    label: Any = None

    @property
    def delta(self) -> float:
        return self.output - float(self.relevance.sum())

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every feature, made up where there are none."""
        return self.feature_names or tuple(f"x{i}" for i in range(self.relevance.size))

    def top(self, count: int = 5, absolute: bool = True) -> list[tuple[str, float]]:
        """The features that contributed most, strongest first."""
        flat = self.relevance.reshape(-1)
        order = np.argsort(-(np.abs(flat) if absolute else flat), kind="stable")[:count]
        return [(self.names[i], float(flat[i])) for i in order]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values."""
        flat, given = self.relevance.reshape(-1), self.values.reshape(-1)
        found: dict[str, Any] = {
            "target": self.target,
            "target_name": self.target_name,
            "output": self.output,
            "delta": self.delta,
            "rules": self.rules,
            "shape": list(self.relevance.shape),
            "relevance": {name: float(r) for name, r in zip(self.names, flat, strict=True)},
            "values": {name: _plain(v) for name, v in zip(self.names, given, strict=True)},
        }
        if self.layers:
            found["layers"] = {path: r.tolist() for path, r in self.layers.items()}
        if self.label is not None:
            found["label"] = self.label if isinstance(self.label, (str, int, float)) else str(self.label)
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """The result that `to_dict` was called on."""
        names, shape = tuple(data["relevance"]), data["shape"]
        made_up = tuple(f"x{i}" for i in range(len(names)))
        return cls(
            feature_names=None if names == made_up else names,
            values=_values(list(data["values"].values())).reshape(shape),
            relevance=np.array(list(data["relevance"].values())).reshape(shape),
            target=data["target"],
            target_name=data["target_name"],
            output=data["output"],
            rules=data["rules"],
            layers={path: np.array(r) for path, r in data.get("layers", {}).items()},
            label=data.get("label"),
        )

    def to_json(self, **options: Any) -> str:
        return json.dumps(self.to_dict(), **options)

    @classmethod
    def from_json(cls, text: str) -> Result:
        return cls.from_dict(json.loads(text))

    def to_frame(self) -> Any:
        """A pandas frame: a row a feature, with its value and its relevance."""
        pandas = require("pandas", "tabular", "a DataFrame")
        return pandas.DataFrame(
            {"value": self.values.reshape(-1), "relevance": self.relevance.reshape(-1)}, index=list(self.names)
        )

    def picture(self, count: int = 15, kind: str = "bars") -> Any:
        """The strongest features as signed ``bars``, or as a ``waterfall`` that adds up to the output.

        Returns a matplotlib figure.
        """
        from relprop import render

        _check_kind(kind, ("bars", "waterfall"))
        row = (self.relevance.reshape(-1), list(self.names), self.values.reshape(-1))
        title = f"{self.target_name}: {self.output:.4g}"
        if kind == "bars":
            return render.bars(*row, count=count, title=title)
        return render.waterfall(*row, output=self.output, count=count, title=title)

    def save(self, path: str | Path, count: int = 15, kind: str = "bars") -> Path:
        """Draw it into a file: .png, .svg, .pdf."""
        from relprop import render

        return render.save(self.picture(count, kind), path)

    def _repr_html_(self) -> str:
        from relprop.render import notebook

        return notebook.row(self)

    def shown(self, count: int = 10) -> str:
        """The strongest features with their values, a line each."""
        strongest = self.top(count)
        width = max(len(n) for n, _ in strongest)
        given = dict(zip(self.names, self.values.reshape(-1).tolist(), strict=True))
        lines = [f"{self.target_name}: {self.output:.4g} explained by {self.rules}, delta {self.delta:.3g}"]
        lines += [f"  {n:<{width}}  {_cell(given[n])}  {r:>+10.4g}" for n, r in strongest]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.shown()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def _plain(value: Any) -> float | str | None:
    """A feature's value in JSON: a number, text, or null for a gap."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None if value is None else str(value)
    return None if np.isnan(number) else number


def _values(plain: list[Any]) -> Array:
    """An array of what `_plain` made."""
    if any(isinstance(v, str) for v in plain):
        return np.array([np.nan if v is None else v for v in plain], dtype=object)
    return np.array(plain, dtype=np.float64)


def _cell(value: Any) -> str:
    plain = _plain(value)
    return f"{plain if isinstance(plain, str) else 'nothing' if plain is None else format(plain, '.4g'):>10}"


class Results(Sequence[Result]):
    """The explanations of a batch, in its order."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = tuple(results)

    def __getitem__(self, i: Any) -> Any:
        return Results(self._results[i]) if isinstance(i, slice) else self._results[i]

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"<Results: {len(self)} rows{f' by {self[0].rules}' if len(self) else ''}>"

    @property
    def relevance(self) -> Array:
        """All relevance, [N, ...]."""
        return np.stack([r.relevance for r in self]) if len(self) else np.empty((0,))

    @property
    def outputs(self) -> Array:
        """The explained values, [N]."""
        return np.array([r.output for r in self])

    @property
    def deltas(self) -> Array:
        """Their convergence deltas, [N]."""
        return np.array([r.delta for r in self])

    @property
    def targets(self) -> list[int]:
        return [r.target for r in self]

    def to_dict(self) -> list[dict[str, Any]]:
        return [r.to_dict() for r in self]

    def to_json(self, **options: Any) -> str:
        return json.dumps(self.to_dict(), **options)

    def to_frame(self) -> Any:
        """A pandas frame: a row an instance, a column a feature, and the target, output and delta."""
        pandas = require("pandas", "tabular", "a DataFrame")
        labels = [i if r.label is None else r.label for i, r in enumerate(self)]
        names = self[0].names if len(self) else ()
        flat = np.array([r.relevance.reshape(-1) for r in self]).reshape(len(self), len(names))
        frame = pandas.DataFrame(flat, columns=list(names), index=labels)
        frame["target"] = [r.target_name for r in self]
        frame["output"] = self.outputs
        frame["delta"] = self.deltas
        return frame

    def mean_strength(self) -> list[tuple[str, float]]:
        """Mean absolute relevance of every feature over the batch, strongest first."""
        mean = np.abs(self.relevance).mean(0).reshape(-1)
        return [(self[0].names[i], float(mean[i])) for i in np.argsort(-mean, kind="stable")]

    def picture(self, count: int = 15, kind: str = "beeswarm") -> Any:
        """All rows: a ``beeswarm``, a table of colours (``heat``), or mean strengths as ``bars``.

        Returns a matplotlib figure.
        """
        from relprop import render

        _check_kind(kind, ("beeswarm", "heat", "bars"))
        if not len(self):
            raise InputError("there are no rows to draw: nothing was explained")
        names, titles = list(self[0].names), list(dict.fromkeys(r.target_name for r in self))
        title = f"{', '.join(titles[:4])}{' and others' if len(titles) > 4 else ''} by {self[0].rules}"
        relevance = self.relevance.reshape(len(self), -1)
        values = np.stack([r.values.reshape(-1) for r in self])
        if kind == "beeswarm":
            return render.beeswarm(relevance, names, values, count=count, title=title)
        if kind == "heat":
            rows = [i if r.label is None else r.label for i, r in enumerate(self)]
            return render.heat_table(relevance, names, values, rows=rows, count=count, title=title)
        title = f"mean strength over {len(self)} rows: {title}"
        return render.bars(np.abs(relevance).mean(0), names, count=count, title=title)

    def save(self, path: str | Path, count: int = 15, kind: str = "beeswarm") -> Path:
        """Draw them into a file: .png, .svg, .pdf."""
        from relprop import render

        return render.save(self.picture(count, kind), path)

    def _repr_html_(self) -> str:
        from relprop.render import notebook

        return notebook.rows(self)


class Comparison(dict[str, Result]):
    """One instance under several rules, by the rules' names."""

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return {name: r.to_dict() for name, r in self.items()}

    def to_json(self, **options: Any) -> str:
        return json.dumps(self.to_dict(), **options)

    def to_frame(self) -> Any:
        """A pandas frame: a row a feature, a column a rule."""
        pandas = require("pandas", "tabular", "a DataFrame")
        names = next(iter(self.values())).names
        return pandas.DataFrame({name: r.relevance.reshape(-1) for name, r in self.items()}, index=list(names))

    def picture(self, count: int = 15) -> Any:
        """A line a feature, a column a rule, in colours: a matplotlib figure."""
        from relprop import render

        if not self:
            raise InputError("there is nothing to draw: no rules were compared")
        first = next(iter(self.values()))
        relevance = np.stack([r.relevance.reshape(-1) for r in self.values()])
        title = f"{first.target_name}: {first.output:.4g}"
        return render.heat_table(relevance, list(first.names), rows=list(self), order="given", count=count, title=title)

    def save(self, path: str | Path, count: int = 15) -> Path:
        """Draw it into a file: .png, .svg, .pdf."""
        from relprop import render

        return render.save(self.picture(count), path)

    def _repr_html_(self) -> str:
        from relprop.render import notebook

        return notebook.comparison(self)


def _check_kind(kind: str, kinds: Sequence[str]) -> None:
    if kind not in kinds:
        raise InputError(f"no drawing {kind!r}; there are {', '.join(kinds)}")
