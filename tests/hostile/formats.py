"""The formats that the project reads: valid files, and the functions that read them.

`use` does with the files what a user's call would, short of minutes of work: it loads
them, and uses what was loaded once. TensorFlow is imported on use, because the process
that starts the others must not have run it.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mutations as m
import numpy as np
import soundfile
import torch_writer
import toy
import toy_export
import toy_files

from bark_tf.config import BarkConfig, BarkGenerationConfig, CtcConfig
from bark_tf.convert.checkpoints import open_checkpoint
from bark_tf.feature_extractor import EncodecFeatureExtractor
from bark_tf.processor import BarkProcessor

RATE = 16_000


class Format(NamedTuple):
    """A format.

    Attributes:
        make: Writes valid files into a folder.
        damage: Name of a file -> the mutations of its kind.
        use: Reads them.
        share: How many cases it gets, relative to the others.
    """

    make: Callable[[Path], Any]
    damage: Mapping[str, Sequence[Callable]]
    use: Callable[[Path], Any]
    share: float


# === Weights ===


def _arrays():
    rng = np.random.default_rng(0)
    names = {"a.weight": (4, 6), "b.bias": (6,), "c": (2, 3, 2), "d": ()}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in names.items()}


def _read_checkpoint(path):
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.names():
            np.asarray(checkpoint.read(name)).sum()


def _make_shards(folder):
    arrays = _arrays()
    names = list(arrays)
    weight_map = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        toy_files.save(folder / file, {name: arrays[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 200}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


TREE = {
    "model": {"a": torch_writer.six(), "b": torch_writer.six((3, 2), (1, 3))},
    "model_args": {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 4},
}


def _torch_format(write, mutations):
    def hostile_tree(rng, data):
        path = Path("pickled")
        write(path, m.torch_tree(rng))
        return path.read_bytes()

    return Format(
        lambda folder: write(folder / "weights.pt", TREE),
        {"weights.pt": (*mutations, hostile_tree)},
        lambda folder: _read_checkpoint(folder / "weights.pt"),
        1.2,
    )


# === Networks ===


def _make_semantic(folder):
    toy_files.save_hf(folder, _small_config(), toy_files.arrays(_small_config()))


def _small_config():
    return toy.semantic_config(num_layers=1)


def _use_semantic(folder):
    from bark_tf import BarkSemanticModel

    model = BarkSemanticModel.from_pretrained(folder)
    model(toy.ids(1, 4))


def _make_codec(folder):
    config = toy.codec_config(num_lstm_layers=1)
    toy_files.save_hf(folder, config, toy_files.arrays(config))


def _use_codec(folder):
    from bark_tf import EncodecModel

    EncodecModel.from_pretrained(folder).decode(np.zeros((1, 2, 3), np.int32))


def _make_bark(folder):
    toy.bark().save_pretrained(folder)
    toy_export.processor().save_pretrained(folder)


def _use_bark(folder):
    from bark_tf import BarkModel

    model = BarkModel.from_pretrained(folder)
    inputs = BarkProcessor.from_pretrained(folder)("one two", return_tensors="np")
    with _eagerly():
        model.generate(**inputs, semantic_max_new_tokens=3, jit_compile=False)


@contextlib.contextmanager
def _eagerly():
    """Tracing takes longer than computing three tokens."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def _use_bark_configs(folder):
    BarkConfig.from_pretrained(folder)
    config = BarkGenerationConfig.from_pretrained(folder)
    toy.voice().validate(**config.voice_limits())


def _make_suno(folder):
    toy_files.save_suno(folder, toy_files.bark_config())


def _use_suno(folder):
    from bark_tf.convert.sources import open_source

    with contextlib.ExitStack() as files:
        open_source(folder, files)


# === Texts and voices ===


def _use_processor(folder):
    BarkProcessor.from_pretrained(folder)("one twos, four!")


def _make_processors(folder):
    toy_export.processor().save_pretrained(folder)
    EncodecFeatureExtractor().save_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(toy_export.WORDS) + "\n")


def _use_processors(folder):
    _use_processor(folder)
    EncodecFeatureExtractor.from_pretrained(folder)([np.ones(9)])


def _use_voices(folder):
    processor = BarkProcessor.from_pretrained(folder)
    for name in toy_export.VOICES:
        processor("one", voice_preset=name)


def _use_voice(folder):
    toy_export.processor()("one", voice_preset=str(folder / "voice.npz"))


# === Sound ===


def _sound():
    rng, time = np.random.default_rng(0), np.arange(RATE // 2) / RATE
    return 0.3 * np.sin(2_000 * time) + rng.normal(0, 0.01, time.size)


def _sound_format(name, subtype, share):
    def make(folder):
        kind = name.upper()
        soundfile.write(folder / name, _sound(), RATE, format=kind, subtype=subtype)

    return Format(make, {name: m.BYTES}, lambda folder: _hear(folder / name), share)


def _make_m4a(folder):
    import toy_recordings

    data = toy_recordings.contained("mp4", "aac", duration_s=0.5)
    (folder / "m4a").write_bytes(data)


def _hear(path):
    from bark_tf.audio.reading import load, load_opening

    load_opening(path)
    load(path, 24_000)


# === Semantic tokens ===


def _make_kmeans(folder):
    from bark_tf.semantic_tokens.kmeans import KMeansTokenizer

    options = {"sample_rate": RATE, "rate_hz": 50.0, "vocab_size": 6}
    KMeansTokenizer.fit([_sound().astype("f4")], **options).save(folder)


def _make_ctc(folder):
    from bark_tf.models.ctc import CtcModel
    from bark_tf.semantic_tokens.ctc import CtcTokenizer

    sizes = {"num_mels": 10, "hidden_size": 8, "num_layers": 1, "num_heads": 2}
    config = CtcConfig(**sizes, kernel_size=5)
    network = toy.randomize(CtcModel(config), stddev=0.3)
    CtcTokenizer(network, np.ones((5, 8), np.float32), rate_hz=50.0).save(folder)


def _use_semantic_tokenizer(folder):
    from bark_tf.semantic_tokens.tokenizer import load_semantic_tokenizer

    load_semantic_tokenizer(folder)(_sound().astype("f4"))


# === Training ===


def _info():
    from bark_tf.training.data.shards import DatasetInfo

    return DatasetInfo(
        sample_rate=RATE,
        has_tokens=True,
        has_audio=True,
        num_codebooks=4,
        codebook_size=1_024,
        frame_rate=50.0,
        semantic_vocab_size=300,
        semantic_rate_hz=50.0,
        text_vocab_size=100,
    )


def _make_prepared(folder):
    from bark_tf.training.data.layouts import Skipped
    from bark_tf.training.data.shards import Utterance, shard_path, write_shard

    rng = np.random.default_rng(0)
    entries = [
        Utterance(
            *(name, "a text", "ann"),
            *(rng.integers(0, 100, 5), rng.integers(0, 300, 8)),
            *(rng.integers(0, 1_024, (4, 8)), rng.uniform(-1, 1, 320)),
        )
        for name in "ab"
    ]
    _info().save(folder)
    write_shard(shard_path(folder, 0), [*entries, Skipped("x", "y", "z")], _info())


def _use_prepared(folder):
    from bark_tf.training.data.shards import ShardSet

    shards = ShardSet(folder)
    for index in range(len(shards)):
        shards[index]


LISTS = {
    "metadata.csv": b"a|One text|One text\nb|Two\n",
    "named.csv": b'file_name,text,speaker\na.wav,"One, two",ann\nb.wav,Three,bob\n',
    "list.txt": b"a.wav|ann|One\nb.wav|bob|Two\n",
    "list.tsv": b"path\tsentence\na.wav\tOne\nb.wav\tTwo\n",
    "list.jsonl": (
        b'{"audio": "a.wav", "text": "One", "speaker": 3, "words": '
        b'[{"word": "One", "start": 0, "end": 1.5}]}\n{"audio": "b", "text": "Two"}\n'
    ),
}


def _make_lists(folder):
    for name, content in LISTS.items():
        (folder / name).write_bytes(content)
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, _sound(), RATE)


def _use_lists(folder):
    from bark_tf.training.data.datasets import read_dataset

    paths = [folder / name for name in LISTS]
    for path in [folder, *filter(Path.is_file, paths)]:
        read_dataset(path)


def _new_base():
    from bark_tf.models.causal import BarkSemanticModel

    return toy.randomize(BarkSemanticModel(_small_config()))


_base = functools.cache(_new_base)


def _make_lora(folder):
    from bark_tf.training.runs.lora import save_lora, save_peft

    model = _new_base()
    model.enable_lora(2, 4.0, targets=("qkv",))
    save_lora(model, folder / "semantic.safetensors")
    save_peft(folder, "suno/bark-small")


def _make_peft(folder):
    _make_lora(folder)
    (folder / "semantic.safetensors").unlink()


def _use_adapters(folder):
    from bark_tf.training.runs.lora import load_lora, merge_lora

    load_lora(_base(), folder)
    merge_lora(_base())


@functools.cache
def _trainer():
    from toy_trainer import ToyTrainer

    return ToyTrainer()


def _train(folder):
    """Trains, or opens a run that has finished."""
    from toy_trainer import ToyBatches, options

    from bark_tf.training.runs.fit import train

    batches = ToyBatches()
    settings = options(steps=4, patience=2, validate_every=2, checkpoint_every=2)
    places = {"directory": folder, "validation": batches}
    train(_trainer(), batches, options=settings, **places)


RECORD = {
    "recipe": {"steps": 4, "out": "o", "model": "m", "data": "d", "method": "full"},
    "model_fingerprint": "ab",
    "data_fingerprint": "cd",
    "data": {"recordings": 3, "hours": 0.1, "held_out": 0, "speakers": ["ann"]},
    "bark_tf": "1",
    "others": "model",
}
DONE = {"stage": "semantic", "last": {"step": 4.0, "loss": 0.5}, "steps": 4}


def _make_run(folder):
    stage = folder / "training" / "semantic"
    _train(stage)
    (stage / "recipe.json").write_text(json.dumps(RECORD))
    (stage / "done.json").write_text(json.dumps(DONE))


def _use_run(folder):
    from bark_tf.saving import saving
    from bark_tf.training.runs import records
    from bark_tf.training.runs.card import write_card

    stage = folder / "training" / "semantic"
    if records.is_finished(stage, RECORD):
        _train(stage)
        with saving(folder) as change:
            write_card(change, "out")


def _make_report(folder):
    from bark_tf.training.evaluation import report

    score = report.StageScore(0.5, 0.25, 40)
    transcript = report.Transcript("model", "1", "One", "one", 0)
    one = report.Evaluation(
        "m", {"seed": 1}, {"fine": score}, transcripts=(transcript,)
    )
    text = json.dumps(dataclasses.replace(one, before=one).to_dict())
    (folder / "report.json").write_text(text)


def _use_report(folder):
    from bark_tf.training.evaluation import report

    report.Evaluation.load(folder).to_dict()


# === Serving ===


def _make_request(folder):
    body = {
        "model": "tts-1",
        "input": "word1 word2",
        "voice": "default",
        "response_format": "pcm",
        "speed": 1.0,
        "seed": 3,
        "temperature": 0.7,
    }
    (folder / "body.json").write_text(json.dumps(body))


@functools.cache
def _gate():
    from toy_serving import FakeModel, processor

    from bark_tf.serving.engine import Engine
    from bark_tf.serving.server import Server

    return Server(Engine(FakeModel(), processor()), "toy").gate


def _use_request(folder):
    import httpx

    async def post(body):
        transport = httpx.ASGITransport(_gate(), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport) as client:
            headers = {"content-type": "application/json"}
            address = "http://toy/v1/audio/speech"
            return await client.post(address, content=body, headers=headers)

    answer = asyncio.run(post((folder / "body.json").read_bytes()))
    if 400 <= answer.status_code < 500:
        raise ValueError(answer.json()["error"]["message"])
    answer.raise_for_status()


def _make_answer(folder):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    message = predict_pb2.PredictResponse()
    for name, value in (("audio", np.ones((1, 9), "f4")), ("lengths", [9])):
        message.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    (folder / "answer").write_bytes(message.SerializeToString())


def _use_answer(folder):
    from bark_tf.serving.messages import response

    response((folder / "answer").read_bytes())


# === All ===

_VOICE_FILE = "speaker_embeddings/alpha_fine_prompt.npy"
FORMATS = {
    "safetensors": Format(
        lambda folder: toy_files.save(folder / "model.safetensors", _arrays()),
        {"model.safetensors": m.SAFETENSORS},
        lambda folder: _read_checkpoint(folder / "model.safetensors"),
        1,
    ),
    "shard-index": Format(
        _make_shards,
        {
            "model.safetensors.index.json": m.JSON,
            "model-00001-of-00002.safetensors": m.SAFETENSORS,
        },
        _read_checkpoint,
        0.7,
    ),
    "torch-zip": _torch_format(torch_writer.write_zip, m.ZIP),
    "torch-legacy": _torch_format(torch_writer.write_legacy, m.PICKLE),
    "semantic-model": Format(
        _make_semantic,
        {"config.json": m.JSON, "model.safetensors": m.SAFETENSORS},
        _use_semantic,
        0.6,
    ),
    "codec-model": Format(
        _make_codec,
        {"config.json": m.JSON, "model.safetensors": m.SAFETENSORS},
        _use_codec,
        0.4,
    ),
    "bark-configs": Format(
        _make_bark,
        {"config.json": m.JSON, "generation_config.json": m.JSON},
        _use_bark_configs,
        1.2,
    ),
    "bark": Format(
        _make_bark,
        {
            "config.json": m.JSON,
            "generation_config.json": m.JSON,
            "model.safetensors": m.SAFETENSORS,
        },
        _use_bark,
        0.15,
    ),
    "suno": Format(
        _make_suno,
        {"text.json": m.JSON, "text.pt": m.SAFETENSORS, "fine.pt": m.SAFETENSORS},
        _use_suno,
        0.5,
    ),
    "tokenizer": Format(
        _make_bark,
        {"tokenizer.json": m.JSON, "tokenizer_config.json": m.JSON},
        _use_processor,
        1,
    ),
    "processors": Format(
        _make_processors,
        {
            "processor_config.json": m.JSON,
            "preprocessor_config.json": m.JSON,
            "vocab.txt": m.BYTES,
        },
        _use_processors,
        0.5,
    ),
    "voices": Format(
        _make_bark,
        {"speaker_embeddings_path.json": m.JSON, _VOICE_FILE: m.NPY},
        _use_voices,
        1,
    ),
    "voice": Format(
        lambda folder: toy.voice().save(folder / "voice.npz"),
        {"voice.npz": m.NPZ},
        _use_voice,
        1,
    ),
    "wav": _sound_format("wav", "PCM_16", 0.8),
    "flac": _sound_format("flac", "PCM_16", 0.6),
    "ogg": _sound_format("ogg", "VORBIS", 0.6),
    "mp3": _sound_format("mp3", "MPEG_LAYER_III", 0.4),
    "m4a": Format(
        _make_m4a, {"m4a": m.BYTES}, lambda folder: _hear(folder / "m4a"), 0.3
    ),
    "kmeans": Format(
        _make_kmeans,
        {
            "semantic_tokenizer.json": m.JSON,
            "semantic_tokenizer.safetensors": m.SAFETENSORS,
        },
        _use_semantic_tokenizer,
        0.6,
    ),
    "ctc": Format(
        _make_ctc,
        {
            "semantic_tokenizer.json": m.JSON,
            "semantic_tokenizer.safetensors": m.SAFETENSORS,
        },
        _use_semantic_tokenizer,
        0.2,
    ),
    "prepared": Format(
        _make_prepared,
        {
            "dataset.json": m.JSON,
            "shard-00000.jsonl": m.JSON_LINES,
            "shard-00000.tfrecord": m.BYTES,
        },
        _use_prepared,
        1,
    ),
    "lists": Format(
        _make_lists,
        {**dict.fromkeys(LISTS, m.BYTES), "list.jsonl": m.JSON_LINES},
        _use_lists,
        0.8,
    ),
    "lora": Format(
        _make_lora, {"semantic.safetensors": m.SAFETENSORS}, _use_adapters, 0.4
    ),
    "peft": Format(
        _make_peft,
        {"adapter_config.json": m.JSON, "adapter_model.safetensors": m.SAFETENSORS},
        _use_adapters,
        0.4,
    ),
    "run": Format(
        _make_run,
        {
            "training/semantic/recipe.json": m.JSON,
            "training/semantic/done.json": m.JSON,
            "training/semantic/step-00000004/state.json": m.JSON,
            "training/semantic/step-00000004/state.safetensors": m.SAFETENSORS,
            "training/semantic/best.safetensors": m.SAFETENSORS,
            "training/semantic/log.jsonl": m.JSON_LINES,
        },
        _use_run,
        0.6,
    ),
    "report": Format(_make_report, {"report.json": m.JSON}, _use_report, 0.4),
    "request": Format(_make_request, {"body.json": m.JSON}, _use_request, 0.8),
    "answer": Format(_make_answer, {"answer": m.BYTES}, _use_answer, 0.3),
}
