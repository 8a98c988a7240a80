"""The names of `from bark_tf import ...` and `from bark_tf.training import ...`."""

import ast
import importlib
from pathlib import Path

import pytest

import bark_tf
import bark_tf.training

PACKAGES = pytest.mark.parametrize("package", [bark_tf, bark_tf.training])


def typed_names(package):
    """Name -> module, as type checkers read the package."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname: "." * node.level + node.module
        for node in block.body
        for alias in node.names
        if alias.asname == alias.name  # only such an alias is re-exported
    }


@PACKAGES
def test_type_checkers_see_the_names_that_load(package):
    assert typed_names(package) == package._HOME_OF
    assert (Path(bark_tf.__file__).parent / "py.typed").is_file()


@PACKAGES
def test_every_public_name_loads(package):
    for name, home in package._HOME_OF.items():
        home = importlib.import_module(home, package.__name__)
        assert getattr(package, name) is getattr(home, name), name
    assert dir(package) == sorted(package.__all__)


@PACKAGES
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="no attribute 'Bark'"):
        package.Bark  # noqa: B018
