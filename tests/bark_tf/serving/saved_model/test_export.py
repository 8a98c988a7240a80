"""An export speaks as `generate` does where there is neither bark_tf nor XLA."""

import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toy
from tensorflow.core.protobuf import saved_model_pb2
from toy_export import FILTERS, Rows, answers_of, processor

TEXTS = ["one two", "fours", "three! one"]
VOICES = ["", "kumo", "alpha"]
SPOKEN = {
    "greedy": Rows(TEXTS, VOICES, [1, 2, 2**63 + 5], 0),
    "sampled, one seed": Rows(TEXTS, VOICES, 2**63 + 5, (0.9, 0.7, 0.5)),
    "one row": Rows(["one"], ["alpha"], 7, (0.9, 0.7, 1), limits=(0, 7)),
}
NO_SIGNATURES = types.SimpleNamespace(functions={})
NAN = np.float32([np.nan])
ONE = Rows(["one"], ["alpha"], 7, 1.0)
# Inputs that are refused -> the words of the error.
REFUSED = [
    (
        {name: value[:0] for name, value in ONE.speak().items()},
        "the batch must have rows",
    ),
    ({"voice": np.array(["", ""])}, "all inputs must have the same number of rows"),
    ({"voice": np.array(["zulu"])}, "voice must be empty or one of the voices"),
    ({"text": np.array(["!" * 10_000])}, "text must have at most 8 ids"),
    ({"text": np.array([" \n"])}, "text must not be empty"),
    ({"text": np.array([b"one \xff"])}, "text must be valid UTF-8"),
    (
        {"semantic_temperature": NAN},
        "semantic_temperature must be finite and at least 0",
    ),
    ({"coarse_temperature": -NAN}, "coarse_temperature must be finite and at least 0"),
    ({"fine_temperature": np.float32([-1])}, "fine_temperature must be finite"),
    ({"max_new_tokens": np.int32([57])}, "max_new_tokens must be at most 56"),
    ({"min_new_tokens": np.int32([-1])}, "min_new_tokens must be at least 0"),
    ({"stream": np.int32([-1])}, "stream must be at least 0"),
]


@pytest.fixture(scope="module")
def answers(exported, tmp_path_factory):
    requests = [rows.speak() for rows in SPOKEN.values()]
    for changes, _ in REFUSED:
        requests += [ONE.speak(**changes), ONE.speak()]
    requests = [("speak", inputs) for inputs in requests]
    return answers_of(exported, requests, tmp_path_factory.mktemp("answers"))


@pytest.mark.parametrize("name", SPOKEN)
def test_an_export_gives_the_bits_of_generate(answers, name):
    answer = answers[list(SPOKEN).index(name)]
    assert "error" not in answer, answer
    expected = SPOKEN[name].generate(toy.shared_bark(), processor(), **FILTERS)
    np.testing.assert_array_equal(answer["audio"], expected.audio)
    assert answer["lengths"].tolist() == expected.lengths
    assert set(answer["sampling_rate"]) == {24_000}
    assert expected.audio.shape[1] > 0


def test_a_refused_request_says_why_and_the_next_one_is_right(answers):
    answers = answers[len(SPOKEN) :]
    expected = answers[1]["audio"]
    for (_, words), refused, after in zip(
        REFUSED, answers[::2], answers[1::2], strict=True
    ):
        assert refused["code"] == tf.errors.INVALID_ARGUMENT
        message = str(refused["error"])
        _, _, said = message.partition("assertion failed: [")
        assert said.startswith(words), message
        np.testing.assert_array_equal(after["audio"], expected)


def nodes(path):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def test_files_hold_each_variable_once_and_stock_operations_only(exported):
    assert exported.name == "1" and exported.parent.name == "bark"
    assert not list(exported.parent.glob(".*"))
    reader = tf.train.load_checkpoint(str(exported / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    names = [name for name in shapes if name.startswith("variables_of_all/")]
    floats = [reader.get_tensor(name) for name in names]
    saved = sum(array.nbytes for array in floats if array.dtype == np.float32)
    bark = toy.shared_bark()
    weights = [weight for part in bark.parts.values() for weight in part.weights]
    size = sum(weight.value.numpy().nbytes for weight in weights)
    assert 0.99 * size < saved <= size  # no signature reads the last codebooks
    assert not {node.op for node in nodes(exported) if "Xla" in node.op}
    largest = max(node.ByteSize() for node in nodes(exported) if node.op == "Const")
    assert largest < 500_000


def test_versions_count_up_and_are_not_replaced(exported, monkeypatch):
    bark = toy.shared_bark()
    for version in (0, True, "1", 1):
        with pytest.raises(ValueError, match="version"):
            bark.export(exported.parent, processor(), version=version)
    with pytest.raises(ValueError, match="sliding_window_len must be a multiple of 2"):
        bark.export(exported.parent, processor(), sliding_window_len=5)

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    monkeypatch.setattr(
        "bark_tf.serving.saved_model.export.Signatures", lambda *_: NO_SIGNATURES
    )
    with pytest.raises(OSError, match="disk full"):
        bark.export(exported.parent, processor())
    assert [path.name for path in exported.parent.iterdir()] == ["1"]


def test_a_full_disk_is_named_and_nothing_stays(tmp_path, monkeypatch):
    def fail(root, path, functions):
        Path(path).mkdir()
        words = f"{path}/variables; No space left on device [Op:SaveV2]"
        raise tf.errors.ResourceExhaustedError(None, None, words)

    monkeypatch.setattr(tf.saved_model, "save", fail)
    monkeypatch.setattr(
        "bark_tf.serving.saved_model.export.Signatures", lambda *_: NO_SIGNATURES
    )
    with pytest.raises(OSError, match="No space left") as raised:
        toy.shared_bark().export(tmp_path / "bark", processor())
    assert raised.value.filename == str(tmp_path / "bark")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 6},
        {"top_p": 0.8},
        {"repetition_penalty": 1.4},
        {"semantic_min_eos_p": 0.2},
    ],
)
def test_each_filter_alone_gives_the_bits_of_generate(options, tmp_path):
    bark = toy.shared_bark()
    path = bark.export(tmp_path / "bark", processor(), **options)
    rows = list(SPOKEN.values())
    requests = [("speak", one.speak()) for one in rows]
    for one, answer in zip(rows, answers_of(path, requests, tmp_path), strict=True):
        expected = one.generate(bark, processor(), **options)
        np.testing.assert_array_equal(answer["audio"], expected.audio)
