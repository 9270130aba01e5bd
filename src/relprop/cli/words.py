"""Rules, selectors and presets as they are written on the command line.

`Name('features.*')=Gamma(0.25)` is read with Python's parser and carried out by the few kinds of node that
such words are made of; nothing is ever evaluated by Python itself.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

import relprop.presets
import relprop.rules
import relprop.selectors
from relprop.composite import Composite
from relprop.errors import InputError, RelpropError, nearest
from relprop.presets import Preset
from relprop.rules import LinearRule, Rule
from relprop.selectors import Selector

Words = Mapping[str, Callable[..., Any]]

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LOGIC: dict[type, Callable[[Any, Any], Any]] = {ast.BitAnd: operator.and_, ast.BitOr: operator.or_}


def rules() -> dict[str, type[Rule]]:
    """The rules by name."""
    return _classes(relprop.rules, Rule, (Rule, LinearRule))


def presets() -> dict[str, type[Preset]]:
    """The presets by name."""
    return _classes(relprop.presets, Preset, (Preset,))


def selectors() -> dict[str, type[Selector]]:
    """The selectors by name; those that stand behind the signs & | ~ are left out."""
    found = _classes(relprop.selectors, Selector, (Selector,))
    return {name: cls for name, cls in found.items() if name not in ("And", "Or", "Not")}


def _classes(module: Any, base: type, without: tuple[type, ...]) -> dict[str, Any]:
    return {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls not in without and not name.startswith("_")
    }


def parse_row(text: str) -> tuple[Selector, Rule]:
    """`SELECTOR=RULE`, as in ``Kind('conv') & Name('layer1.*')=Gamma(0.25)``.

    Raises:
        InputError: where it is not of that form, or a word in it is unknown (with the nearest ones).
    """
    cut = _equals_sign(text)
    if cut is None:
        raise InputError(
            f"--rule {text!r} has no '=' between a selector and a rule; write it as \"Name('features.*')=Gamma(0.25)\""
        )
    left, right = text[:cut].strip(), text[cut + 1 :].strip()
    selector = _read(left, selectors(), "selector", text)
    rule = _read(right, rules(), "rule", text)
    if not isinstance(selector, Selector):
        raise InputError(f"--rule {text!r}: {left!r} is no selector; there are {', '.join(selectors())}")
    if not isinstance(rule, Rule):
        raise InputError(f"--rule {text!r}: {right!r} is no rule; there are {', '.join(rules())}")
    return selector, rule


def parse_preset(text: str) -> Composite:
    """A preset by its name, with or without arguments; a rule's name gives that rule to every linear map.

    Raises:
        InputError: for an unknown name (with the nearest ones) or arguments that do not fit.
    """
    value = _read(text, {**rules(), **presets()}, "preset", text)
    if isinstance(value, Rule):
        return Composite(value, name=str(value))
    if not isinstance(value, Composite):
        raise InputError(f"{text!r} is no preset; there are {', '.join(presets())}")
    return value


def signature(cls: type) -> str:
    """How a rule, selector or preset is written, with its defaults."""
    parts = []
    for parameter in inspect.signature(cls).parameters.values():
        text = f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else parameter.name
        has_default = parameter.default is not parameter.empty
        parts.append(f"{text}={parameter.default!r}" if has_default else text)
    return f"{cls.__name__}({', '.join(parts)})"


def _equals_sign(text: str) -> int | None:
    """The place of the first '=' that stands outside of brackets and quotes."""
    depth, quote = 0, ""
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "=" and depth == 0:
            return i
    return None


def _read(text: str, words: Words, what: str, whole: str) -> Any:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"{what} {text!r} in {whole!r} cannot be read; write it like {_example(what)}") from None
    try:
        value = _value(tree.body, words, what)
        return value() if inspect.isclass(value) else value
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{what} {text!r} is nested too deeply") from None
    except (RelpropError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{what} {text!r}: {error}") from error


def _example(what: str) -> str:
    return {"selector": "Name('features.*')", "rule": "Gamma(0.25)"}.get(what, "EpsilonGammaBox(low=-2, high=2)")


def _value(node: ast.expr, words: Words, what: str) -> Any:
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
            return value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, words, what) for item in items)
        case ast.Name(id=name):
            return _word(name, words, what)
        case ast.Attribute():
            return _module_class(node)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _number(_value(operand, words, what))
            return -number if isinstance(sign, ast.USub) else number
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return ~_selector(_value(operand, words, what))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
            numbers = _number(_value(left, words, what)), _number(_value(right, words, what))
            return _ARITHMETIC[type(sign)](*numbers)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _LOGIC:
            sides = _selector(_value(left, words, what)), _selector(_value(right, words, what))
            return _LOGIC[type(sign)](*sides)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(_word(name, words, what), args, keywords, words, what)
    raise InputError(f"{what} {ast.unparse(node)!r} cannot be read; write it like {_example(what)}")


def _call(made: Callable[..., Any], args: list[ast.expr], keywords: list[ast.keyword], words: Words, what: str) -> Any:
    if any(keyword.arg is None for keyword in keywords):
        raise InputError(f"{what}: ** is not understood here")
    inside = getattr(made, "__name__", "")
    values = [_argument(arg, words, what, inside) for arg in args]
    named = {str(keyword.arg): _argument(keyword.value, words, what, inside) for keyword in keywords}
    try:
        inspect.signature(made).bind(*values, **named)
    except TypeError as error:
        written = signature(made) if inspect.isclass(made) else str(made)
        raise InputError(f"{what} {getattr(made, '__name__', made)}: {error}; it is written {written}") from None
    return made(*values, **named)


def _argument(node: ast.expr, words: Words, what: str, inside: str) -> Any:
    """What is given to a word: a bare name that is no word itself may be a text without its quotes."""
    return _word(node.id, words, what, inside) if isinstance(node, ast.Name) else _value(node, words, what)


def _word(name: str, words: Words, what: str, inside: str = "") -> Callable[..., Any]:
    if name in words:
        return words[name]
    listed = 0 if inside else len(words)
    quoted = f"; a text stands in quotes: {inside}('{name}')" if inside else ""
    raise InputError(f"unknown {what} {name!r}{nearest(name, words, cutoff=0.5, listed=listed)}{quoted}")


def _module_class(node: ast.Attribute) -> type[nn.Module]:
    """`nn.Conv2d` or `torch.nn.Conv2d`."""
    written = ast.unparse(node)
    found = getattr(nn, node.attr, None) if written in (f"nn.{node.attr}", f"torch.nn.{node.attr}") else None
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return found
    known = [f"nn.{n}" for n, v in vars(nn).items() if inspect.isclass(v)]
    raise InputError(f"{written!r} is no module of torch.nn{nearest(f'nn.{node.attr}', known, cutoff=0.6)}")


def _number(value: Any) -> int | float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise InputError(f"{value!r} is no number")


def _selector(value: Any) -> Selector:
    value = value() if inspect.isclass(value) and issubclass(value, Selector) else value
    if isinstance(value, Selector):
        return value
    raise InputError(f"{value!r} is no selector")
