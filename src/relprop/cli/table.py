"""`relprop table`: what the columns of a table contributed to a model's output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from relprop.tabular import Results
    from relprop.tabular.data import Data


@click.command("table")
@click.argument("data")
@click.option(
    "--model",
    default="mlp",
    show_default=True,
    metavar="MODEL",
    help="mlp or linear: fitted here on the table. FILE.py:FACTORY: a network, or a fitted scikit-learn estimator.",
)
@click.option("--weights", metavar="FILE", help="Weights for a network: .safetensors, or a state dict.")
@click.option("--label", metavar="COLUMN", help="The column that the model predicts; it is no feature.")
@click.option("--row", "rows", type=int, multiple=True, metavar="N", help="Row to explain, from 0. Repeatable.")
@click.option("--target", metavar="CLASS", help="Index or name of the output to explain. [default: the predicted one]")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help="As for relprop explain; also epsilon, gamma, z_plus, alpha_beta. Several are compared. [default: one that "
    "suits the model]",
)
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Features to print.")
@click.option("--out", metavar="FILE", help="Write the relevance: .csv or .json; or a picture: .png, .svg, .pdf.")
def table(
    data: str,
    model: str,
    weights: str | None,
    label: str | None,
    rows: tuple[int, ...],
    target: str | None,
    presets: tuple[str, ...],
    top: int,
    out: str | None,
) -> None:
    """Explain a model's output for rows of DATA by its columns.

    DATA is a CSV file with a header line, or one of the built-in tables breast-cancer, iris, wine and diabetes.
    Without --row every row is explained (of a model that was fitted here, the rows it has not seen) and the mean
    strength of every column is printed. A picture of one row shows bars, or under several presets a table; one of many
    rows shows every row as a point, coloured by the column's value.
    """
    from relprop.progress import Progress
    from relprop.tabular.data import read_table

    destination = _destination(out, several=len(rows) != 1 and len(presets) > 1)
    composites = [_preset(text) for text in presets] or [None]
    found = read_table(data, label)
    _check_rows(rows, len(found.values))
    with Progress() as progress:
        progress.step("loading the model")
        made, described, shown = _model(model, weights, found)
        click.echo(f"{found.name}: {len(found.values)} rows, {len(found.columns)} features")
        click.echo(f"{model}: {described}")
        progress.step("explaining")
        chosen = list(rows) if rows else shown
        wanted = int(target) if target is not None and target.lstrip("-").isdigit() else target
        results = [_explain(made, composite, found, chosen, wanted) for composite in composites]
    for result in results:
        if rows:
            for one in result:
                click.echo(f"\nrow {one.label}, {one.shown(top)}")
        else:
            _say_all(result, top)
    if destination is not None:
        click.echo(f"wrote {_write(results, destination, top)}")


def _preset(text: str) -> Any:
    from relprop.cli.words import parse_preset
    from relprop.tabular.explainer import RULES, named

    return named(text) if text in RULES else parse_preset(text)


def _model(spec: str, weights: str | None, data: Data) -> tuple[Any, str, list[int]]:
    """The model, a line on it, and the rows that stand for the whole table."""
    from torch import nn

    from relprop.errors import InputError
    from relprop.models.sources import from_file
    from relprop.models.weights import fit_state, read_state
    from relprop.tabular.data import fit

    if spec in ("mlp", "linear"):
        if weights is not None:
            raise InputError(f'--weights are for a network of your own; model "{spec}" is fitted on the table')
        fitted = fit(spec, data)
        return fitted.pipeline, fitted.described, fitted.test_rows.tolist()
    if ".py" not in spec:
        raise InputError(f"unknown model {spec!r}; a model is mlp, linear, or FILE.py:FACTORY")
    state = None if weights is None else read_state(weights)
    model = from_file(spec)
    if isinstance(model, nn.Module):
        model.eval()
        if state is not None:
            fit_state(model, state, str(weights))
    elif state is not None:
        raise InputError(f"--weights are for an nn.Module, {spec} gives a {type(model).__name__}")
    return model, type(model).__name__, list(range(len(data.values)))


def _explain(model: Any, composite: Any, data: Data, rows: list[int], target: Any) -> Results:
    from relprop.tabular import Explainer
    from relprop.tabular.frame import check_columns

    explainer = Explainer(model, class_names=data.classes, preset=composite)
    if explainer.feature_names is None:
        explainer = Explainer(model, data.columns, data.classes, composite)
    check_columns(data.columns, explainer.feature_names)
    return explainer.explain_batch(data.values[rows], target, rows)


def _say_all(results: Results, top: int) -> None:
    strengths = results.mean_strength()[:top]
    width = max(len(name) for name, _ in strengths)
    click.echo(f"\nmean strength over {len(results)} rows by {results[0].rules}")
    for name, strength in strengths:
        click.echo(f"  {name:<{width}}  {strength:.4g}")


def _check_rows(rows: tuple[int, ...], count: int) -> None:
    from relprop.errors import InputError

    for row in rows:
        if not 0 <= row < count:
            raise InputError(f"--row {row} is out of range: the table has rows 0 to {count - 1}")


def _destination(out: str | None, several: bool) -> Path | None:
    """Where to write, asked before the work begins."""
    from relprop.errors import InputError

    if out is None:
        return None
    path = Path(out)
    if path.suffix.lower() not in (".csv", ".json"):
        from relprop.render.figure import FORMATS, check_path

        if path.suffix.lower() not in FORMATS:
            raise InputError(f"{out}: relevance is written as .csv or .json, a picture as {', '.join(FORMATS)}")
        if several:
            raise InputError(
                f"{out}: a picture shows many rows under one preset, or one row (--row) under several; give fewer, or "
                "write .csv or .json"
            )
        return check_path(path)
    from relprop.render.files import check_destination

    return check_destination(path, (".csv", ".json"), "relevance")


def _write(results: list[Results], path: Path, top: int) -> Path:
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps([r.to_dict() for r in results]), encoding="utf-8")
    elif path.suffix.lower() == ".csv":
        import csv

        with path.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["rules", "row", "target", "output", "delta", *results[0][0].names])
            for result in results:
                for one in result:
                    values = [f"{v:.9g}" for v in one.relevance.reshape(-1)]
                    writer.writerow([one.rules, one.label, one.target_name, one.output, one.delta, *values])
    else:
        return _draw(results).save(path, top)
    return path


def _draw(results: list[Results]) -> Any:
    """What suits them: bars of one row, one row under several presets as a table, many rows as a beeswarm."""
    from relprop.tabular import Comparison

    if len(results) > 1:
        return Comparison({result[0].rules: result[0] for result in results})
    return results[0][0] if len(results[0]) == 1 else results[0]
