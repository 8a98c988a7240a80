"""What `make docs`, whose warnings are errors, cannot find."""

import re
from pathlib import Path

import bark_tf
import bark_tf.plots
import bark_tf.training

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_in_the_reference_once():
    pages = [path.read_text(encoding="utf-8") for path in ROOT.glob("docs/api/*.md")]
    shown = re.findall(r"^::: (\S+)", "\n".join(pages), re.MULTILINE)
    modules = (bark_tf, bark_tf.plots, bark_tf.training)
    public = {
        f"{module.__name__}.{name}" for module in modules for name in module.__all__
    }
    assert public - {"bark_tf.__version__"} - set(shown) == set()
    assert len(shown) == len(set(shown))


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/api/*.md")]
    assert [p for p in pages if p.relative_to(ROOT).as_posix() not in menu] == []


def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {bark_tf.__version__}\n" in citation
