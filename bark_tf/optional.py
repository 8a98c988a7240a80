"""Packages that only some uses need."""

from __future__ import annotations

import importlib
from typing import Any


def named(extra: str) -> str:
    """Names an extra and says how to install it, for the end of a sentence."""
    return f'the extra `{extra}` of bark-tf (in its clone: pip install ".[{extra}]")'


def required(module: str, what: str, extra: str) -> Any:
    """Imports an optional package.

    Args:
        module: Its name in an `import` statement.
        what: What needs it, as the subject of a sentence.
        extra: The extra of bark-tf that installs it.

    Returns:
        The module.

    Raises:
        ImportError: If it cannot be imported; the message names the package and the
            extra.

    Example:
        >>> required("no_such.part", "Singing", "choir")
        Traceback (most recent call last):
        ...
        ImportError: Singing needs the package no-such, which cannot be imported (No
        module named 'no_such'). Install the extra `choir` of bark-tf (in its clone: pip
        install ".[choir]")
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ImportError(
            f"{what} needs the package {package}, which cannot be imported ({error}). "
            f"Install {named(extra)}"
        ) from error
