"""Prints the requirements in pyproject.toml except TensorFlow, one per line.

Usage: python .ci/requirements.py EXTRA ...
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]
for requirement in sum(extras, project["dependencies"]):
    if not requirement.startswith("tensorflow"):
        print(requirement)
