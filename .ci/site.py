"""Gathers what the documentation site is made of: `make docs`.

In build/pages: the repository's Markdown files and what these link to, at their own
paths, and the help of every command. In build/package: the sources of the package as it
is installed, whose docstrings mkdocstrings reads. Nothing here imports TensorFlow.
"""

import os
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
PACKAGE = ROOT / "build" / "package"
# What mkdocstrings, which only reads, knows by other names.
WORDS = {"Example:\n": "Examples:\n", "@frozen_config": "@dataclasses.dataclass"}
SOURCES = (
    "*.md",
    "LICENSE",
    "docs/**/*.*",
    "notebooks/*.*",
    "benchmarks/*.*",
    "benchmarks/results/*.md",
    "deploy/*.*",
    "bark_tf/assets/*.md",
    "training/recipes/**/*.*",
)
# A page, and the pages that the site lists at its end.
LISTS = {"docs/decisions/README.md": "0*.md", "benchmarks/README.md": "results/*.md"}


def commands() -> str:
    """Returns the help of every command, as a page."""
    from bark_tf.cli.completion import all_parsers
    from bark_tf.cli.main import build_parser

    os.environ["COLUMNS"] = "80"
    parts = ["# Commands\n"]
    for parser in all_parsers(build_parser()):
        parts.append(f"## {parser.prog}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def links(folder: Path, pattern: str) -> str:
    """Returns links to the pages of a folder, by their titles."""
    lines = []
    for page in sorted(folder.glob(pattern)):
        title = page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{title}]({page.relative_to(folder)})\n")
    return "".join(lines)


def copy_package() -> None:
    """Writes build/package anew, and makes it importable."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, folder in project["tool"]["setuptools"]["package-dir"].items():
        target = PACKAGE.joinpath(*name.split("."))
        shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("assets"))
    sys.path.insert(0, str(PACKAGE))


def copy_pages() -> None:
    """Writes build/pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for pattern in SOURCES:
        for source in filter(Path.is_file, ROOT.glob(pattern)):
            target = PAGES / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    (PAGES / "docs" / "commands.md").write_text(commands(), encoding="utf-8")
    for page, pattern in LISTS.items():
        with (PAGES / page).open("a", encoding="utf-8") as file:
            file.write(f"\n{links((PAGES / page).parent, pattern)}")


def translate_package() -> None:
    """Makes build/package readable for mkdocstrings; it cannot be imported any more."""
    for source in PACKAGE.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        for word, known in WORDS.items():
            text = text.replace(word, known)
        source.write_text(f"{text}\nimport dataclasses\n", encoding="utf-8")


if __name__ == "__main__":
    copy_package()
    copy_pages()
    translate_package()
