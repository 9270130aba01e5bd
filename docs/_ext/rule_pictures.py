"""A picture of every rule at work, drawn by the build from what the engine returns.

Each is a case small enough to follow by hand: `CASES` names, for each rule, what is explained under it. The pictures
have no ground of their own and middle greys, so they stand on a light page as on a dark one.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import nn

import relprop as rp
import relprop.rules as rr

FOR, AGAINST, INK = "#c2544b", "#4b79cf", "#858585"
A, W, B = (2.0, 1.0, 0.0, 1.5, -1.0, 0.5), (1.0, -1.5, 1.0, 0.5, -0.8, 2.0), 0.5


@dataclass
class Bars:
    """What a picture shows: relevance of some entries, beside what they brought, and what did not arrive at them."""

    labels: list[str]
    relevance: list[float]
    beside: list[float] | None = None
    legend: tuple[str, str] = ("contribution", "relevance")
    rest: dict[str, float] = field(default_factory=dict)


@dataclass
class Curves:
    """Relevance over the input of a function."""

    x: list[float]
    lines: dict[str, list[float]]


class Of(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def rest(audit):
    """The entries of the books that are worth a bar."""
    named = {"bias": audit.bias, "epsilon": audit.epsilon, "constant": audit.constants, "excess": audit.excess}
    return {name: value for name, value in named.items() if abs(value) > 1e-3 * max(abs(audit.seed), 1e-12)}


def linear(rule):
    """One output of a dense layer."""
    layer = nn.Linear(len(A), 1).double()
    with torch.no_grad():
        layer.weight.copy_(row(*W))
        layer.bias.fill_(B)
    e = rp.LRP(layer, rule).explain(row(*A), target=0)
    labels = [f"a = {a:g}\nw = {w:g}" for a, w in zip(A, W)]
    return Bars(labels, e.relevance[0].tolist(), [a * w for a, w in zip(A, W)], rest=rest(e.audit))


def passed(rule):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4).double()
    z = layer(row(2.0, 1.0, -1.0, 0.5))[0].tolist()
    e = rp.LRP(layer, rule).explain(row(2.0, 1.0, -1.0, 0.5), target=lambda y: y)
    return Bars([f"entry {i}" for i in range(4)], e.relevance[0].tolist(), z, ("at the output", "at the input"))


def curve(rule):
    """GELU, of which every entry is explained by its own value."""
    x = torch.linspace(-4, 3, 141, dtype=torch.float64)[None]
    lines = {}
    for name, one in (("Identity()", rr.Identity()), ("Gradient()", rr.Gradient())):
        rows = [(rp.Kind("activation"), one)]
        e = rp.LRP(nn.GELU(), rows).explain(x, target=lambda y: y, unknown="gradient")
        lines[name] = e.relevance[0].tolist()
    name = str(rule)
    return Curves(x[0].tolist(), {name: lines.pop(name), **lines})


def signs(rule):
    """A ReLU with every combination of signs."""
    x, g = row(2.0, 2.0, -1.0, -1.0), row(1.5, -1.0, 1.5, -1.0)

    class Reads(rp.Composite):
        reading = "gradient"

    composite = Reads([(rp.Kind("relu"), rule), (rp.All(), rp.Gradient())])
    e = rp.LRP(Of(lambda x: torch.relu(x) * g), composite).explain(x, target=lambda y: y)
    labels = [f"x = {a:g}\ng = {b:g}" for a, b in zip(x[0].tolist(), g[0].tolist())]
    return Bars(labels, e.relevance[0].tolist(), g[0].tolist(), ("gradient above", "gradient passed"))


def norm(rule):
    x = row(3.0, 1.0, -1.0, 0.5, -2.0)
    model, target = Of(lambda x: F.layer_norm(x, (5,))), lambda y: y[:, 0]
    e = rp.LRP(model, [(rp.Kind("norm"), rule)]).explain(x, target=target)
    other = rp.LRP(model, [(rp.Kind("norm"), rp.Gradient())]).explain(x, target=target, unknown="gradient")
    labels = [f"x = {v:g}" for v in x[0].tolist()]
    return Bars(labels, e.relevance[0].tolist(), other.relevance[0].tolist(), ("gradient × input", "relevance"))


def softmax(rule):
    x = row(2.0, 1.0, 0.5, -1.0)
    e = rp.LRP(Of(lambda x: x.softmax(-1)), [(rp.Kind("softmax"), rule)]).explain(x, target=lambda y: y[:, 0])
    shares = x.softmax(-1)[0].tolist()
    labels = [f"x = {v:g}" for v in x[0].tolist()]
    return Bars(labels, e.relevance[0].tolist(), shares, ("softmax", "relevance of the first"), rest(e.audit))


def addends(rule):
    """Two sums: of addends of one sign, and of both."""
    x, y = row(2.0, 3.0)[0], row(1.0, -1.0)[0]
    e = rp.LRP(Of(lambda x, y: x + y), [(rp.Kind("sum"), rule)]).explain(x, y, target=lambda z: z)
    r = torch.stack([e.relevance[0], e.relevance[1]], 1).flatten().tolist()
    return Bars(["x = 2", "y = 1", "x = 3", "y = −1"], r, [2.0, 1.0, 3.0, -1.0], ("addend", "relevance"))


def factors(rule):
    x, p = row(2.0, 0.5)[0], row(1.0, 2.0)[0]
    model = Of(lambda x, p: x * p.sigmoid())
    e = rp.LRP(model, [(rp.Kind("product"), rule)]).explain(x, p, target=lambda z: z)
    r = torch.stack([e.relevance[0], e.relevance[1]], 1).flatten().tolist()
    gates = p.sigmoid().tolist()
    labels = ["signal 2", f"gate {gates[0]:.2f}", "signal 0.5", f"gate {gates[1]:.2f}"]
    return Bars(labels, r, [2.0, gates[0], 0.5, gates[1]], ("factor", "relevance"))


def constant(rule):
    x, p = row(2.0)[0], row(1.0)[0]
    rows = [(rp.Kind("activation"), rule)]  # the product is then one by a constant
    e = rp.LRP(Of(lambda x, p: x * p.sigmoid()), rows).explain(x, p, target=lambda z: z)
    r = [e.relevance[0].item(), e.relevance[1].item()]
    return Bars(["signal 2", "gate's input 1"], r, [2.0, 1.0], ("value", "relevance"), rest(e.audit))


def window(rule, values=(1.0, 3.0, 3.0, 2.0), pool=F.max_pool1d):
    x = row(*values)
    e = rp.LRP(Of(lambda x: pool(x[:, None], 4)[:, 0]), [(rp.Kind("pool"), rule)]).explain(x, target=0)
    return Bars(
        [f"x = {v:g}" for v in values], e.relevance[0].tolist(), list(values), ("entry", "relevance"), rest(e.audit)
    )


def averaged(rule):
    return window(rule, (1.0, 3.0, -1.0, 2.0), F.avg_pool1d)


def attention(rule):
    torch.manual_seed(1)
    q, k, v = (torch.randn(1, 1, 3, 4, dtype=torch.float64) for _ in range(3))
    model = Of(F.scaled_dot_product_attention)
    q = 3 * q  # so that it matters where it looks
    e = rp.LRP(model, [(rp.Kind("attention"), rule)]).explain(
        q, k, v, target=lambda y: y[:, 0, :, 0], unknown="gradient"
    )
    parts = [r.sum().item() for r in e.relevance]
    books = rest(e.audit)
    if abs(e.audit.unexplained) > 1e-9:
        books["unexplained"] = e.audit.unexplained
    return Bars(["queries", "keys", "values"], parts, rest=books)


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


def steps(rule):
    torch.manual_seed(3)
    model, x = Last().double(), torch.randn(1, 8, 3, dtype=torch.float64)
    all_, half = (
        rp.LRP(model, [(rp.Kind("recurrent"), one)]).explain(x, target=0).relevance.sum(-1)[0].tolist()
        for one in (rule, rr.Gates("half"))
    )
    return Bars([f"step {i}" for i in range(8)], all_, half, ('gate="half"', 'gate="all"'))


class Scan(nn.Module):
    """A selective state space, as Mamba has it: h_t = exp(dt A) h_{t-1} + dt B x_t,  y_t = C h_t + D x_t."""

    def __init__(self, width=6, states=4):
        super().__init__()
        self.sizes = (1, states, states)
        self.select, self.step = nn.Linear(width, sum(self.sizes), bias=False), nn.Linear(1, width)
        self.A_log, self.D = nn.Parameter(torch.zeros(width, states)), nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, 1, bias=False)

    def forward(self, x):
        rank, b, c = torch.split(self.select(x), self.sizes, -1)
        dt, h, out = F.softplus(self.step(rank))[..., None], 0.0, []
        for t in range(x.shape[1]):
            h = torch.exp(-dt[:, t] * self.A_log.exp()) * h + dt[:, t] * b[:, t, None] * x[:, t, :, None]
            out.append((h * c[:, t, None]).sum(-1) + self.D * x[:, t])
        return self.head(torch.stack(out, 1).mean(1))


def scanned(rule):
    torch.manual_seed(2)
    model, x = Scan().double(), torch.randn(1, 8, 6, dtype=torch.float64)
    one, other = (
        rp.LRP(model, [(rp.Kind("selection"), r)]).explain(x, target=0).relevance.sum(-1)[0].tolist()
        for r in (rule, rp.Gradient())
    )
    return Bars([f"step {i}" for i in range(8)], one, other, ("B and C native", "B and C constant"))


CASES = {
    rr.Zero(): linear,
    rr.Epsilon(1.0): linear,
    rr.Gamma(1.0): linear,
    rr.AlphaBeta(2, 1): linear,
    rr.ZPlus(): linear,
    rr.ZBox(low=-2.0, high=2.0): linear,
    rr.WSquare(): linear,
    rr.Flat(): linear,
    rr.Pass(): passed,
    rr.Identity(): curve,
    rr.Gradient(): curve,
    rr.Constant(): constant,
    rr.ConstantStatistics(): norm,
    rr.SoftmaxGradient(): softmax,
    rr.GuidedReLU(): signs,
    rr.DeconvReLU(): signs,
    rr.Signed(): addends,
    rr.Absolute(): addends,
    rr.Equal(): addends,
    rr.ResidualGamma(1.0): addends,
    rr.Half(): factors,
    rr.SignalTakesAll(): factors,
    rr.Proportional(): factors,
    rr.WinnerTakesAll(): window,
    rr.EqualTies(): window,
    rr.EpsilonPool(0.25): averaged,
    rr.BilinearHalf(): attention,
    rr.ValueOnly(): attention,
    rr.AttentionGradient(): attention,
    rr.Gates("all"): steps,
    rr.SelectionConstant(): scanned,
}


def draw(shown):
    """A figure of bars or curves."""
    figure = Figure(figsize=(5.4, 1.95), layout="constrained")
    axes = figure.subplots()
    if isinstance(shown, Curves):
        for (name, y), style in zip(
            shown.lines.items(), ({"color": FOR, "lw": 2}, {"color": INK, "lw": 1, "ls": "--"})
        ):
            axes.plot(shown.x, y, label=name, **style)
        axes.set_xlabel("x, through GELU", fontsize=8, color=INK)
    else:
        bars(axes, shown)
    axes.axhline(0, color=INK, lw=0.7)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.margins(y=0.12)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(
        fontsize=8, labelcolor=INK, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2
    )
    return figure


def bars(axes, shown):
    at = range(len(shown.labels))
    wide = 0.36 if shown.beside else 0.5
    shift = wide / 2 + 0.02 if shown.beside else 0.0
    if shown.beside:
        axes.bar([i - shift for i in at], shown.beside, wide, fill=False, edgecolor=INK, lw=0.9, label=shown.legend[0])
    colours = [FOR if r >= 0 else AGAINST for r in shown.relevance]
    axes.bar([i + shift for i in at], shown.relevance, wide, color=colours)
    axes.bar([0], [0], color=FOR, label=shown.legend[1])  # in the legend, whatever the sign of the first
    first = len(shown.labels) + 0.25
    if shown.rest:
        places = [first + i for i in range(len(shown.rest))]
        axes.bar(places, shown.rest.values(), 0.4, fill=False, edgecolor=INK, lw=0.9, hatch="//////", label="elsewhere")
        axes.axvline(first - 0.62, color=INK, lw=0.5, ls=":")
    axes.set_xticks([*at, *(first + i for i in range(len(shown.rest)))], [*shown.labels, *shown.rest])


def make(folder):
    """Draw every rule into a folder, one file a rule, named as the rule is."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for rule, case in CASES.items():
        with rc_context(
            {"svg.hashsalt": "relprop", "svg.fonttype": "none", "hatch.linewidth": 0.6, "hatch.color": INK}
        ):
            path = folder / f"{type(rule).__name__}.svg"
            draw(case(rule)).savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def setup(app):
    app.connect("builder-inited", lambda app: make(Path(app.srcdir, "generated", "rules")))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
