"""Packages that only some uses need."""

from __future__ import annotations

from typing import Any


def required(module: str, what: str) -> Any:
    """Imports an optional package; ImportError names the extra."""
    try:
        return __import__(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise ImportError(
            f'{what} needs {package}: pip install "bark-tf[train]"'
        ) from error
