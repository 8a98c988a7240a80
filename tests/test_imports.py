"""Who imports whom: the layers of the package, read from the source."""

import ast
import graphlib
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
# Folder -> the package it is installed as.
FOLDERS = {
    "bark_tf": "bark_tf",
    "convert": "bark_tf.convert",
    "training": "bark_tf.training",
}

# A module imports only from the rows above its own, and from its own folder in its row.
# The longest name that fits decides.
ROWS = (
    ("_version", "backend", "tokens", "locks", "habits", "optional"),
    ("files",),
    ("saving", "progress", "suggestions"),
    ("hub", "memory"),
    ("config",),
    ("audio", "text", "voices.presets", "voices.array_files"),
    ("speech",),
    ("convert",),
    ("generation",),  # of networks it knows `forward`, `logits` and `token_embedding`
    ("models",),
    ("semantic_tokens",),
    ("voices",),
    ("processor",),
    ("feature_extractor",),
    ("serving.messages",),
    ("serving.saved_model",),  # is given a `BarkModel` and a processor
    ("speech.speaker",),  # is given a model
    ("bark",),
    ("speech.speak",),
    ("serving", "training"),
    ("plots",),
    ("cli",),
    ("__main__",),
)
# (source, target) of imports inside functions, and what they keep out.
LATE_IMPORTS = {
    ("cli", ""): "TensorFlow, out of `bark-tf --help` and of errors in arguments",
    ("convert.rules", "memory"): "TensorFlow, out of converting file to file",
    ("training.data.prepare", "training.data.beam"): "Apache Beam",
}
PUBLIC = ("bark_tf", "bark_tf.plots", "bark_tf.training", "bark_tf.serving.client")


class Import(NamedTuple):
    """One import of something of ours, names without the leading `bark_tf.`."""

    source: str
    target: str
    is_late: bool  # inside a function
    is_relative: bool

    def __str__(self):
        return f"{self.source} imports {self.target or 'bark_tf'}"


def source_files():
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            yield path, ".".join(parts).removesuffix(".__init__")


def is_within(name, package):
    return package == "" or name == package or name.startswith(package + ".")


def without_root(name):
    return name.removeprefix("bark_tf").removeprefix(".")


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node, is_late=False):
    """The import statements that run, each with whether only a function runs it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_late
        elif not is_type_checking(child):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, is_late or is_function)


def imported_names(node, package, known):
    """The modules that one statement imports; `package` is where it stands."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, base]).rstrip(".")
    names = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in known else base for name in names]


def read_imports():
    modules = {name: path for path, name in source_files()}
    for module, path in modules.items():
        is_package = path.name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        for node, is_late in walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_relative = bool(getattr(node, "level", 0))
            for name in imported_names(node, package, modules):
                if is_within(name, "bark_tf"):
                    yield Import(
                        without_root(module), without_root(name), is_late, is_relative
                    )


def row(name):
    """The row of a module; the package itself, the public names, is below all."""
    rows = {known: number for number, names in enumerate(ROWS) for known in names}
    fitting = [known for known in rows if is_within(name, known)]
    return rows[max(fitting, key=len)] if fitting and name else len(ROWS)


def folder(name):
    return name.partition(".")[0]


def is_allowed(found):
    if row(found.source) == row(found.target) and folder(found.source) == folder(
        found.target
    ):
        return True
    return row(found.target) < row(found.source)


def may_be_late(found):
    return any(
        is_within(found.source, source) and is_within(found.target, target)
        for source, target in LATE_IMPORTS
    )


IMPORTS = sorted(set(read_imports()))


def test_the_reader_sees_every_kind_of_import():
    code = """
import bark_tf.hub
from bark_tf import config, __version__
def function():
    from . import rules
    from ..models.causal import Causal
if TYPE_CHECKING:
    import bark_tf.cli
"""
    known = {"bark_tf.config", "bark_tf.convert.rules", "bark_tf.models.causal"}
    found = [
        (imported_names(node, "bark_tf.convert", known), is_late)
        for node, is_late in walk(ast.parse(code))
    ]
    assert found == [
        (["bark_tf.hub"], False),
        (["bark_tf.config", "bark_tf"], False),
        (["bark_tf.convert.rules"], True),
        (["bark_tf.models.causal"], True),
    ]


def test_every_module_has_a_row():
    modules = {without_root(module) for _, module in source_files()} - {""}
    assert {name for name in modules if row(name) == len(ROWS)} == set()


def test_modules_import_only_from_rows_above():
    assert [str(found) for found in IMPORTS if not is_allowed(found)] == []


def test_no_module_imports_itself_by_way_of_others():
    """Late imports count; the lazy names of `bark_tf` itself do not."""
    graph = {}
    for found in IMPORTS:
        if found.source and found.target != found.source:
            graph.setdefault(found.source, set()).add(found.target)
    graphlib.TopologicalSorter(graph).prepare()


def test_functions_import_ours_only_to_keep_something_out():
    late = [found for found in IMPORTS if found.is_late and found.source]
    assert [str(found) for found in late if not may_be_late(found)] == []


def examples():
    """The code of benchmarks and notebooks, with `pass` for the latter's magics."""
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        yield path, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        yield path, re.sub(r"^(\s*)[%!].*", r"\1pass", "\n".join(code), flags=re.M)


def test_benchmarks_and_notebooks_use_public_names_only():
    names = {module: importlib.import_module(module).__all__ for module in PUBLIC}
    for path, text in examples():
        imported = re.findall(r"^\s*(?:from|import) (bark_tf[.\w]*)", text, re.M)
        assert set(imported) <= names.keys(), path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                modules = {name.removeprefix(f"{node.module}.") for name in PUBLIC}
                known = {*names[node.module], *modules}
                assert {alias.name for alias in node.names} <= known, path.name


def test_imports_are_relative_only_inside_convert_and_training():
    """Recipes are copied and changed: they import as any file of a user does."""
    wrong = []
    for found in IMPORTS:
        folder = found.source.partition(".")[0]
        is_recipe = is_within(found.source, "training.recipes")
        is_own = is_within(found.target, folder) and not is_recipe
        if found.is_relative != (folder in ("convert", "training") and is_own):
            wrong.append(str(found))
    assert wrong == []


def test_nobody_imports_the_folders_by_their_own_names():
    """`import convert` would make a second copy of every class."""
    for path, module in source_files():
        for node, _ in walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not getattr(node, "level", 0):
                for name in imported_names(node, "", {}):
                    first = name.partition(".")[0]
                    assert first not in ("convert", "training"), module


def test_library_code_has_no_assert():
    """`python -O` removes them; errors are raised."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, _ in source_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


@pytest.mark.parametrize("module", ["bark_tf", "bark_tf.hub", "bark_tf.config"])
def test_import_is_cheap(module):
    heavy = ("tensorflow", "keras", "huggingface_hub", "torch", "transformers")
    code = f"import sys, {module}; print([n for n in {heavy} if n in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_folder_is_a_listed_package():
    """An unlisted folder works in an editable install and is missing in the wheel."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    setuptools = tomllib.loads(text)["tool"]["setuptools"]
    on_disk = {
        module if path.name == "__init__.py" else module.rpartition(".")[0]: path.parent
        for path, module in source_files()
    }
    assert sorted(setuptools["packages"]) == sorted(on_disk)
    for folder in on_disk.values():
        assert (folder / "__init__.py").is_file(), folder
    assert setuptools["package-dir"] == {
        package: folder for folder, package in FOLDERS.items() if package in on_disk
    }
