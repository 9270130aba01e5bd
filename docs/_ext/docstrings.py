"""The house's docstrings as reStructuredText, so that they are written for the reader of the source alone.

Columns ("name    what it is", aligned) and sections such as ``Args:`` become lists of definitions, formulas and other
indented lines stay as they are set, and in all other text single backticks mean code and nothing else means anything.
"""

import re
import textwrap

COLUMN = re.compile(r"^([^\s`(\[][\w.*, ]{0,22}?|\"[\w-]+\":?)  +(\S.*)$")
CODE_LINE = re.compile(r"^(?:[A-Za-z_|][\w+'|]*(?:\(.*?\))? :?= |with .*:$)")
SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")
ENTRY = re.compile(r"^    ([\w*][\w*., ]{0,60}): (.*)$")
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")


def inline(text):
    """Backticks are code; asterisks, bars and trailing underscores are themselves."""
    made = ""
    for i, part in enumerate(CODE.split(text)):
        if i % 2:
            made += ("\\ " if made[-1:].isalnum() else "") + f"``{part.strip('`')}``"
            continue
        part = re.sub(r"([\\*|`])", r"\\\1", part)
        part = re.sub(r"(\w)_(?!\w)", r"\1\\_", part)
        made += ("\\ " if i and part[:1].isalnum() else "") + part
    return made


def literal(lines):
    return ["::", "", *textwrap.indent(textwrap.dedent("\n".join(lines)), "    ").splitlines(), ""]


def columns(block):
    """The (name, text) pairs of an aligned block; empty where it is none."""
    first = COLUMN.match(block[0])
    if not first:
        return []
    at = first.start(2)
    pairs = []
    for line in block:
        found = COLUMN.match(line)
        if found and found.start(2) == at:
            pairs.append([found[1].strip(), [found[2]]])
        elif pairs and line.startswith(" ") and len(line) - len(line.lstrip()) >= min(at, 4):
            pairs[-1][1].append(line.strip())
        else:
            return []
    return pairs


def titled(block):
    """A heading such as `Args:` over entries "    name: text", or over text."""
    head = block[0].rstrip(":")
    made = [f"**{'Parameters' if head == 'Args' else head}**", ""]
    for line in block[1:]:
        found = ENTRY.match(line)
        if found:
            made += [f"``{found[1]}``", f"    {inline(found[2])}"]
        else:
            made.append(f"{'    ' if line.startswith('        ') else ''}{inline(line.strip())}")
    return [*made, ""]


def paragraph(block):
    """Text; lines that are set deeper than it are formulas or code."""
    made, deep = [], []
    for line in block:
        if line.startswith("    "):
            deep.append(line)
            continue
        if deep:
            made += ["", *literal(deep)]
            deep = []
        made.append(inline(line.strip()))
    return [*made, "", *literal(deep)] if deep else [*made, ""]


def translate(lines):
    """A docstring's lines as reStructuredText."""
    made, block = [], []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
            continue
        if not block:
            continue
        pairs = columns(block)
        if SECTION.match(block[0]):
            made += titled(block)
        elif pairs:
            for name, text in pairs:
                made += [f"``{name}``", *(f"    {inline(part)}" for part in text)]
            made.append("")
        elif all(line.startswith("    ") for line in block) or CODE_LINE.match(block[0]):
            made += literal(block)
        else:
            made += paragraph(block)
        block = []
    return made


def process(app, what, name, obj, options, lines):
    if what == "module":  # written for who works on it; the pages have their own introductions
        lines[:] = []
        return
    lines[:] = translate(lines)


def signature(app, what, name, obj, options, text, returns):
    """A dataclass field that is made for each object has a default that is no Python."""
    return (text.replace("<factory>", "..."), returns) if text else None


def setup(app):
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
