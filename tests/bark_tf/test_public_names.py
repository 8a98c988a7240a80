"""The names of `from bark_tf import ...`."""

import ast
from pathlib import Path

import pytest

import bark_tf


def typed_names():
    """Name -> module, as type checkers read the package."""
    tree = ast.parse(Path(bark_tf.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname: node.module
        for node in block.body
        for alias in node.names
        if alias.asname == alias.name  # only such an alias is re-exported
    }


def test_type_checkers_see_the_names_that_load():
    assert typed_names() == bark_tf._HOME_OF
    assert (Path(bark_tf.__file__).parent / "py.typed").is_file()


def test_every_public_name_loads():
    assert [name for name in bark_tf.__all__ if not hasattr(bark_tf, name)] == []
    assert dir(bark_tf) == sorted(bark_tf.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Bark'"):
        bark_tf.Bark  # noqa: B018
