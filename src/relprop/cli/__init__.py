"""The `relprop` command.

Bottom up: `words` (rules, selectors and presets as they are written), `options` (that several commands share),
`session` (from the options to a network, rules and a photograph), `output` (what is printed), `demo`, `report`,
`table`, `text`, `commands`.

Every mistake of the user is one line on standard error and exit code 2, and nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from relprop.errors import MissingExtraError, RelpropError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 if it did what was asked, 2 if it could not be asked like that."""
    try:
        code = run(arguments)
    except RelpropError as error:
        print(f"relprop: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("relprop: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of a pipe, say `head`, has seen enough
        sys.stderr.close()
        code = 0
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors pass through.

    Raises:
        RelpropError: for whatever the user can mend.
    """
    try:
        import click
    except ModuleNotFoundError:
        raise MissingExtraError(
            "the command needs 'click', which is not installed: pip install 'relprop[cli]'"
        ) from None
    from relprop.cli.commands import relprop

    try:
        result = relprop.main(
            args=None if arguments is None else list(arguments), prog_name="relprop", standalone_mode=False
        )
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = f" {context.info_name}" if context is not None and context.parent else ""
        hint = f" (relprop{command} --help)"
        print(f"relprop: {error.format_message()}{hint}", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0
