"""The notebooks: what they look like in the repository, and that they run."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = [
    "01-speak",
    "02-voices-and-long-text",
    "03-inside-bark",
    "04-checkpoints",
    "05-fine-tune",
    "06-serve",
]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MOST_CELLS = 15
ALLOWED_S = 600  # for a cell, on a busy machine
# At the start of a text, or after what cannot belong to a relative path or a URL.
ABSOLUTE = re.compile(r"(?:^|[\s\"'(=\[])(?:/|~/|[A-Z]:\\)\w", re.M)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def texts_of(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def execute(notebook, folder):
    """Runs all cells in a kernel that stands in `folder`.

    Returns:
        What they have printed.

    Raises:
        CellExecutionError: If a cell fails.
    """
    from nbclient import NotebookClient

    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=ALLOWED_S, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


# === In the repository ===


def test_the_notebooks_are_those_listed():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stored_without_traces_of_a_run(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.id
        assert re.fullmatch("[a-z][a-z-]*", cell.id)
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == nbformat.writes(notebook) + "\n"
    assert not [cell.id for cell in notebook.cells if ABSOLUTE.search(cell.source)]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_short_and_has_a_title_steps_and_what_comes_next(name):
    cells = read(name).cells
    assert len(cells) <= MOST_CELLS
    assert cells[0].source.startswith(f"# {int(name[:2])}. ")
    assert cells[1].id == "install"
    assert cells[-1].source.startswith("## Next\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_links_of_a_notebook_lead_somewhere(name):
    for text in texts_of(read(name), "markdown"):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert (FOLDER / target).is_file(), target


def test_absolute_paths_are_found():
    for text in ('open("/home/me/a.wav")', "cd /tmp/x", "C:\\me", "see (~/a)"):
        assert ABSOLUTE.search(text), text
    for text in ("size / 1000", "[a](../docs/a.md)", "https://a.b/c", "'v2/en'"):
        assert not ABSOLUTE.search(text), text


# === Running ===


@pytest.mark.notebooks
@pytest.mark.parametrize("name", sorted(NAMES, reverse=True))
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path):
    """Without warnings, which a reader would take for a mistake of theirs."""
    printed = execute(read(name), tmp_path)
    assert "Warning" not in printed, printed


@pytest.mark.notebooks
def test_a_broken_cell_fails(tmp_path):
    from nbclient.exceptions import CellExecutionError

    notebook = read(NAMES[0])
    notebook.cells = [notebook.cells[1], nbformat.v4.new_code_cell("1 / 0")]
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, tmp_path)


@pytest.mark.reference
def test_checkpoints_are_compared_with_transformers(tmp_path):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    printed = execute(read("04-checkpoints"), tmp_path)
    (difference,) = re.findall(r"difference of the logits: (\S+)", printed)
    assert float(difference) < 1e-3
