"""Prints the requirements in pyproject.toml except TensorFlow, one per line.

Usage: python .ci/requirements.py [--only] EXTRA ...

With --only, those of the extras alone.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
names = [name for name in sys.argv[1:] if name != "--only"]
own = [] if "--only" in sys.argv else project["dependencies"]
for requirement in sum((project["optional-dependencies"][n] for n in names), own):
    if not requirement.startswith("tensorflow"):
        print(requirement)
