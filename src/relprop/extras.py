"""Optional packages: imported where they are used, or an error with the line that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from relprop.errors import MissingExtraError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: as in an import statement, say ``"PIL.Image"``.
        extra: the extra of relprop that installs it.
        purpose: what it is needed for, as it completes "... needs": "reading photographs".

    Raises:
        MissingExtraError: in one line, with what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # What is missing may also be a package that this one needs in turn.
        package = (error.name or module).split(".")[0]
        raise MissingExtraError(
            f"{purpose} needs the package {package!r}, which is not installed: pip install 'relprop[{extra}]'"
        ) from None
