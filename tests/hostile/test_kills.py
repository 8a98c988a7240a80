"""Whatever is killed, and whenever: the old files or the new ones, and no leftovers.

A run is watched, and what it has on disk before and after each file operation is kept:
that is what a kill leaves there. Each of these states is put back; then a reader must
find the old or the new files, and the same command must end as if nothing had happened.
"""

import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import toy
import toy_cli
import toy_export
import toy_files
import toy_speech
import toy_trainer

from bark_tf import BarkModel, BarkProcessor, BarkSemanticModel, VoicePreset, hub
from bark_tf.cli import main as cli
from bark_tf.convert.convert import convert_checkpoint
from bark_tf.saving import settle
from bark_tf.semantic_tokens.tokenizer import load_semantic_tokenizer
from bark_tf.training.data.prepare import prepare
from bark_tf.training.options import LoraOptions
from bark_tf.training.runs import fit
from bark_tf.training.runs.recipe import Recipe
from bark_tf.training.runs.run import run
from bark_tf.voices.cloning import save_voice

State = dict[str, bytes | None]  # a path and its bytes; None for a folder


def nothing(root):
    """What was there before, or what a reader opens."""


class Case(NamedTuple):
    """A command, and what it is run on.

    Attributes:
        run: Runs the command in a folder.
        find: What every reader does first.
        load: Opens what it makes, as its users do; once for the old files, and once for
            the new ones, since each state has the bytes of these or of those.
        before: Makes what is there before.
        at_once: Whether all files change together; else each does on its own.
        passing: Folders whose files come and go before the end.
        timed: Files that hold times and are not compared.
    """

    run: Callable[[Path], object]
    find: Callable[[Path], object] = nothing
    load: Callable[[Path], object] = nothing
    before: Callable[[Path], object] = nothing
    at_once: bool = True
    passing: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()


# === States ===


def state_of(root) -> State:
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def put_back(state, root):
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, data in state.items():
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)


def is_hidden(name):
    return f"/{name}".count("/.") > 0


def shown(state, case, is_over):
    """The files that count, by name."""
    skipped = case.timed if is_over else (*case.timed, *case.passing)
    return {
        name: data
        for name, data in state.items()
        if data is not None and not is_hidden(name)
        if not any(part in name for part in skipped)
    }


def states_during(command, root, operations):
    """Every state that a kill during a command leaves, each once."""
    states: list[State] = []

    def look():
        state = state_of(root)
        if not states or state != states[-1]:
            states.append(state)

    with operations.watched(look):
        command(root)
    return states


def check(case, root, operations, every=1):
    """Checks every so many states; returns their number."""
    case.before(root)
    old = shown(state_of(root), case, is_over=False)
    if old:
        case.load(root)
    states = states_during(case.run, root, operations)
    case.load(root)
    new = shown(state_of(root), case, is_over=False)
    end = shown(state_of(root), case, is_over=True)
    assert new != old
    for number, state in enumerate(states[::every]):
        put_back(state, root)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A save of .* was interrupted")
            check_state(case, root, old, new, f"{number * every} of {len(states)}")
        found = state_of(root)
        assert [name for name in found if is_hidden(name)] == [], number
        assert shown(found, case, is_over=True) == end, number
    return len(states)


def check_state(case, root, old, new, number):
    try:
        case.find(root)
    except FileNotFoundError:
        assert not old, number
    found = shown(state_of(root), case, is_over=False)
    if case.at_once:
        assert found in (old, new), number
    for name in {*found, *old, *new}:
        assert found.get(name) in (old.get(name), new.get(name)), (number, name)
    try:
        case.run(root)
    except FileExistsError:
        assert found == new, number


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """What a process has written survives its end, on disk or not."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def operations(toy_runs):
    import file_operations

    return file_operations


# === What is saved ===


def semantic(seed):
    return toy.randomize(BarkSemanticModel(toy.semantic_config()), seed=seed)


def foreign(root):
    """A directory that also holds what is not ours."""
    (root / "notes").mkdir(parents=True)
    (root / "README.md").write_text("mine")
    (root / "notes" / "model-a.txt").write_text("mine too")


def save(make, size, size_before=None):
    """Saves a network, over another one in files of some size."""
    one, two = make(1), make(2)

    def before(root):
        if size_before is not None:
            foreign(root / "saved")
            two.save_pretrained(root / "saved", max_shard_size=size_before)

    return Case(
        lambda root: one.save_pretrained(root / "saved", max_shard_size=size),
        lambda root: hub.find_weights(root / "saved"),
        lambda root: type(one).from_pretrained(root / "saved"),
        before,
    )


def save_processor():
    voices = {"alpha": toy_cli.voice(20), "kumo": toy_cli.voice(12)}
    processor = BarkProcessor(toy_speech.tokenizer(), voices)
    before = BarkProcessor(toy_speech.tokenizer(), {"alpha": toy_cli.voice(28)})
    return Case(
        lambda root: processor.save_pretrained(root / "saved"),
        lambda root: hub.find_file(root / "saved", "tokenizer.json"),
        lambda root: BarkProcessor.from_pretrained(root / "saved").load_voice("alpha"),
        lambda root: before.save_pretrained(root / "saved"),
    )


def convert(source, overwrite):
    toy_files.save_hf(source, toy_files.bark_config())

    def run(root, dtype="float16"):
        size = "200KB" if overwrite else "5GB"
        convert_checkpoint(
            source, root / "made", dtype=dtype, max_shard_size=size, overwrite=overwrite
        )

    return Case(
        run,
        lambda root: hub.find_weights(root / "made"),
        lambda root: BarkModel.from_pretrained(root / "made"),
        functools.partial(run, dtype=None) if overwrite else nothing,
    )


def export(monkeypatch):
    """With the files of a SavedModel, but without tracing."""

    def write(module, path, functions):
        for name in ("saved_model.pb", "variables/variables.index"):
            (Path(path) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(path) / name).write_text(name)

    place = "bark_tf.serving.saved_model.export"
    signatures = types.SimpleNamespace(functions={})
    monkeypatch.setattr(tf.saved_model, "save", write)
    monkeypatch.setattr(f"{place}.Signatures", lambda *_: signatures)
    bark, processor = toy.shared_bark(), toy_export.processor()

    def run(root):
        is_there = (root / "bark" / "2").exists()
        with contextlib.suppress(*[ValueError] * is_there):
            bark.export(root / "bark", processor, version=2)

    return Case(
        run,
        lambda root: settle(root / "bark"),
        before=lambda root: bark.export(root / "bark", processor),
    )


def voice():
    report = types.SimpleNamespace(
        roundtrip=np.sin(np.arange(2_400) / 9).astype(np.float32), sample_rate=24_000
    )
    return Case(
        lambda root: save_voice(toy_cli.voice(12), report, root / "me.npz"),
        load=lambda root: VoicePreset.from_npz(root / "me.npz"),
        before=lambda root: save_voice(
            toy_cli.voice(20),
            types.SimpleNamespace(**vars(report) | {"sample_rate": 8000}),
            root / "me.npz",
        ),
        at_once=False,
    )


# === Commands ===


def call(*arguments):
    assert cli.main([*map(str, arguments), "--quiet"]) == 0


def speak(folder):
    toy.bark().save_pretrained(folder)
    toy_export.processor().save_pretrained(folder)

    def run(root):
        options = ["--model", folder, "--seed", 3, "--no-xla", "--max-seconds", 0.3]
        files = ["-o", root / "a.wav", "--save-voice", root / "a.npz"]
        call("speak", "one two", *files, *options)

    return Case(run, at_once=False)


def prepare_audio(folder):
    toy_speech.record(folder, toy_speech.TEXTS[:5])

    def run(root):
        prepare(folder, root / "out", sample_rate=8_000, shard_size=2, validation=0.3)

    return Case(run, at_once=False)


def train_tokenizer(folder):
    toy_speech.record(folder, toy_speech.TEXTS[:3])
    prepare(folder, folder / "shards", sample_rate=16_000)
    options = ["--clusters", 4, "--rate", 50]
    return Case(
        lambda root: call("train-tokenizer", folder / "shards", root / "out", *options),
        lambda root: load_semantic_tokenizer(root / "out"),
        nothing,
        lambda root: call(
            "train-tokenizer", folder / "shards", root / "out", *options, "--seed", 1
        ),
    )


def train(folder, method):
    toy_trainer.write_prepared(folder)
    # A line of the log is a mean since the last one, or since the run went on.
    options = {"steps": 2, "warmup_steps": 0, "checkpoint_every": 1, "keep": 1}
    options["log_every"] = 1
    recipe = Recipe(
        "semantic",
        method,
        str(folder / "model"),
        data=str(folder / "data"),
        batch_size=8,
        lora=LoraOptions(rank=2),
    )

    def train_into(root, seed=0):
        changes = {"out": str(root / "out"), "options": {**options, "seed": seed}}
        run([dataclasses.replace(recipe, **changes)])

    def before(root):
        train_into(root, seed=1)
        shutil.rmtree(root / "out" / "training")

    return Case(
        train_into,
        lambda root: hub.find_weights(root / "out"),
        lambda root: BarkModel.from_pretrained(root / "out"),
        before,
        passing=("training/",),
        timed=("log.jsonl", "tensorboard", "done.json"),
    )


@pytest.fixture
def eager(monkeypatch):
    """Steps are not traced, which would take most of the time."""
    compile_it = fit._compile

    def compile_eagerly(trainer, options):
        trainer.compile(optimizer=fit.optimizer_of(options), run_eagerly=True)
        compile_it(trainer, options)

    monkeypatch.setattr(fit, "_compile", compile_eagerly)


# === Sweeps ===


# Name -> a function of a folder for inputs; one state in so many is checked by default.
CASES = {
    "save": lambda folder: save(semantic, "5GB"),
    "save again": lambda folder: save(semantic, "5GB", "5GB"),
    "save again, same shards": lambda folder: save(semantic, 4_000, 4_000),
    "save again, other shards": lambda folder: save(semantic, 4_000, 9_000),
    "save again, shards to one file": lambda folder: save(semantic, "5GB", 4_000),
    "save again, one file to shards": lambda folder: save(semantic, 4_000, "5GB"),
    "save a whole Bark again": lambda folder: save(toy.bark, "30KB", "30KB"),
    "processor": lambda folder: save_processor(),
    "convert": lambda folder: convert(folder, overwrite=False),
    "convert --overwrite": lambda folder: convert(folder, overwrite=True),
    "voice": lambda folder: voice(),
    "speak": speak,
    "prepare": prepare_audio,
    "train-tokenizer": train_tokenizer,
    "train": lambda folder: train(folder, "full"),
    "train adapters": lambda folder: train(folder, "lora"),
}
# One state in so many is enough where a command takes long.
EVERY = {"train": 7, "train adapters": 7, "speak": 2}
FAST = {"save again, same shards": 9, "convert --overwrite": 9, "voice": 3}


@pytest.mark.parametrize("name", FAST)
def test_some_kills(name, operations, tmp_path):
    (root := tmp_path / "root").mkdir()
    (inputs := tmp_path / "inputs").mkdir()
    assert check(CASES[name](inputs), root, operations, FAST[name]) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_kill(name, operations, eager, tmp_path):
    (root := tmp_path / "root").mkdir()
    (inputs := tmp_path / "inputs").mkdir()
    assert check(CASES[name](inputs), root, operations, EVERY.get(name, 1)) > 5


@pytest.mark.slow
def test_every_kill_of_an_export(operations, tmp_path, monkeypatch):
    assert check(export(monkeypatch), tmp_path, operations) > 10


@pytest.mark.slow
def test_real_kills(start, operations, tmp_path):
    """That the states which are put back above are those that kills leave."""
    case, made = convert(tmp_path / "bark", overwrite=True), tmp_path / "root" / "made"
    case.before(made.parent)
    before = state_of(made.parent)
    states = states_during(case.run, made.parent, operations)
    options = {"dtype": "float16", "max_shard_size": "200KB", "overwrite": True}
    number, code, found = 1, -signal.SIGKILL, []
    while code == -signal.SIGKILL:
        put_back(before, made.parent)
        child = start("convert_and_die", number, tmp_path / "bark", made, **options)
        code = child.exit_code()
        found.append(without_lock(state_of(made.parent)))
        number += 7
    assert code == 0 and len(found) > 5
    assert all(state in map(without_lock, states) for state in found)


def without_lock(state):
    """Its process differs."""
    return {name: data for name, data in state.items() if "lock" not in name}
