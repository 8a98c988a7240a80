"""What is built of this repository, and what runs from there."""

import ast
import importlib.util
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TEXTS = (".py", ".md", ".toml", ".ipynb", ".yaml", ".sh")


def test_the_extra_for_training_can_be_installed_everywhere():
    """tensorflow-io has wheels up to Python 3.12, and none for Windows."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    train = tomllib.loads(text)["project"]["optional-dependencies"]["train"]
    for version, system, expected in (
        ("3.12", "linux", {"tensorflow-io", "tensorboard"}),
        ("3.13", "linux", {"tensorboard"}),
        ("3.12", "win32", {"tensorboard"}),
    ):
        place = {"python_version": version, "sys_platform": system}
        wanted = [Requirement(line) for line in train]
        found = {r.name for r in wanted if not r.marker or r.marker.evaluate(place)}
        assert found == expected


def test_no_text_says_to_install_a_name_that_anybody_could_claim():
    """The package is on no index: what works is `pip install .` in the clone."""
    claim = re.compile(r"install(\s+-\S+)*\s+[\"'`]?bark[-_]tf\b")
    folders = ("bark_tf", "convert", "training", "docs", "benchmarks", "notebooks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    texts = [path for path in (*files, *ROOT.glob("*.*")) if path.suffix in TEXTS]
    claims = [p for p in texts if claim.search(p.read_text(encoding="utf-8"))]
    assert claims == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the source distribution and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--outdir", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (done.stdout + done.stderr).splitlines()
    about_bytecode = "byte-compiling is disabled"
    warned = [
        ln for ln in lines if "warning" in ln.lower() and about_bytecode not in ln
    ]
    assert warned == []
    return out


@pytest.mark.slow
def test_the_source_distribution_is_the_repository(built, tmp_path):
    """Its wheel runs, and so do its tests."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True
    )
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    kept = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    assert set(listed.stdout.split()) - kept == set()

    venv.create(tmp_path / "environment")
    python = tmp_path / "environment" / "bin" / "python"
    (packages,) = tmp_path.glob("environment/lib/*/site-packages")
    tensorflow = Path(importlib.util.find_spec("tensorflow").origin).parents[1]
    others = (sysconfig.get_path("purelib"), tensorflow)
    (packages / "paths.pth").write_text("".join(f"{path}\n" for path in others))
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index"]
    subprocess.run([*pip, "--quiet", "--no-deps", wheel], check=True)
    run = [python, "-P", "-m"]  # without the folder `bark_tf` that stands here
    speak = [*run, "bark_tf", "speak", "four", "-o", "four.wav"]
    tests = [*run, "pytest", "tests/bark_tf/config", "tests/convert/test_rules.py"]
    for command in (speak, tests):
        subprocess.run(command, cwd=source, check=True, capture_output=True)
    assert (source / "four.wav").stat().st_size > 1000
    code = "import bark_tf, bark_tf.convert as c; print([bark_tf.__file__, c.__file__])"
    done = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert all(str(packages) in file for file in ast.literal_eval(done.stdout))
