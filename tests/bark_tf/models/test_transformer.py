"""The transformers as Keras sees them: labels, metrics, predict, export, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.generation import products
from bark_tf.models import layers
from bark_tf.models.causal import BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.models.losses import cross_entropy
from bark_tf.models.outputs import ModelOutput

IDS = toy.ids(4, 6)
LABELS = IDS.copy()
LABELS[0, :4], LABELS[2, 3], LABELS[3, 5] = -100, -100, 7
WEIGHTS = np.random.default_rng(0).uniform(0.1, 1, (4, 6)).astype("float32")
CODES, CODE_LABELS = toy.ids(4, 5, 4), toy.ids(4, 5, 4, seed=1)
CODE_LABELS[0, 2:] = -100
CODEBOOKS = np.array([1, 2, 3, 1], np.int32)


@pytest.fixture(scope="module")
def model():
    return toy.randomize(BarkSemanticModel(toy.semantic_config(num_layers=1)))


@pytest.fixture(scope="module")
def compiled():
    """The same network, for the tests that compile it."""
    return toy.randomize(BarkSemanticModel(toy.semantic_config(num_layers=1)))


@pytest.fixture(scope="module")
def fine():
    return toy.randomize(BarkFineModel(toy.fine_config(num_layers=1)))


# === Labels and metrics ===


def is_right(labels, logits):
    return tf.cast(tf.argmax(logits, -1) == tf.cast(labels, tf.int64), tf.float32)


class NumLabels(keras.metrics.Metric):
    """A metric that takes weights but does not use them."""

    def __init__(self):
        super().__init__(name="num_labels")
        self.count = self.add_weight(initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        assert y_true.shape.rank == 1 and y_pred.shape.rank == 2
        self.count.assign_add(tf.cast(tf.size(y_true), tf.float32))

    def result(self):
        return self.count


def evaluated(model, *data, jit_compile=False, batch_size=3, **options):
    model.compile(
        metrics=["accuracy", is_right, NumLabels()],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
        jit_compile=jit_compile,
    )
    options |= {"batch_size": batch_size, "verbose": 0, "return_dict": True}
    return model.evaluate(*data, **options)


FORMS = {
    "beside the inputs": ((IDS, LABELS), {"sample_weight": WEIGHTS}),
    "among the inputs": (
        ({"input_ids": IDS, "labels": LABELS, "sample_weight": WEIGHTS},),
        {"jit_compile": True},
    ),
    "weights beside the inputs": (
        ({"input_ids": IDS, "labels": LABELS},),
        {"sample_weight": WEIGHTS},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_metrics_see_the_next_labels_that_are_not_ignored(compiled, form):
    data, options = FORMS[form]
    logs = evaluated(compiled, *data, **options)
    logits = compiled(IDS).logits[:, :-1]
    labels, weights = LABELS[:, 1:], WEIGHTS[:, 1:]
    counts = labels != -100
    right = np.argmax(logits, -1) == labels
    accuracy = right[counts].mean()
    assert logs["accuracy"] == pytest.approx(accuracy)
    assert logs["is_right"] == pytest.approx(accuracy)
    assert logs["num_labels"] == counts.sum()
    weighted = (right * weights)[counts].sum() / weights[counts].sum()
    assert logs["weighted"] == pytest.approx(weighted)
    losses = [
        float(cross_entropy(logits[rows], labels[rows], weights[rows]))
        for rows in (slice(0, 3), slice(3, 4))
    ]
    assert logs["loss"] == pytest.approx(0.75 * losses[0] + 0.25 * losses[1], rel=1e-5)


@pytest.mark.parametrize("form", ["all codebooks", "beside"])
def test_metrics_of_the_fine_model_see_the_codebook_of_the_row(form):
    fine = toy.randomize(BarkFineModel(toy.fine_config(num_layers=1)))
    inputs = {"codebook_idx": CODEBOOKS, "input_ids": CODES}
    picked = np.stack([CODE_LABELS[row, :, k] for row, k in enumerate(CODEBOOKS)])
    data = {
        "all codebooks": ({**inputs, "labels": CODE_LABELS},),
        "beside": (inputs, CODE_LABELS),
    }[form]
    logs = evaluated(fine, *data, batch_size=4)
    logits, counts = fine(CODEBOOKS, CODES).logits, picked != -100
    right = np.argmax(logits, -1) == picked
    assert logs["accuracy"] == pytest.approx(right[counts].mean())
    assert logs["num_labels"] == counts.sum()
    assert logs["loss"] == pytest.approx(float(cross_entropy(logits, picked)), rel=1e-5)


def test_weights_per_row_and_rows_without_labels(compiled):
    labels = LABELS.copy()
    labels[1] = -100
    logs = evaluated(
        compiled, IDS, labels, sample_weight=np.array([1, 1, 0, 2.0]), batch_size=4
    )
    logits = compiled(IDS).logits[:, :-1]
    expected = cross_entropy(logits, labels[:, 1:], np.array([1, 1, 0, 2.0]))
    assert logs["loss"] == pytest.approx(float(expected), rel=1e-5)
    right = (np.argmax(logits, -1) == labels[:, 1:]) * np.array([[1], [1], [0], [2]])
    counts = (labels[:, 1:] != -100) * np.array([[1], [1], [0], [2]])
    assert logs["weighted"] == pytest.approx(right.sum() / counts.sum())


def test_weights_beside_labels_among_the_inputs_count_in_fit(compiled):
    """Keras drops weights that come without `y`."""
    data = {"input_ids": IDS, "labels": LABELS}
    compiled.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    history = compiled.fit(
        data, sample_weight=WEIGHTS, validation_data=(data, None, WEIGHTS), verbose=0
    ).history
    expected = float(compiled(**data, sample_weight=WEIGHTS).loss)
    assert history["loss"] == pytest.approx([expected], rel=1e-5)
    assert history["val_loss"] == pytest.approx([expected], rel=1e-5)


def test_a_loss_of_compile_sees_what_metrics_see(compiled):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled.compile(loss=loss, jit_compile=False)
    expected = float(cross_entropy(compiled(IDS).logits[:, :-1], LABELS[:, 1:]))
    for data in ((IDS, LABELS), ({"input_ids": IDS, "labels": LABELS},)):
        logs = compiled.test_on_batch(*data, return_dict=True)
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    compiled._compile_loss = None  # Keras keeps it for the next compile


@pytest.mark.parametrize("name", ["labels", "sample_weight"])
def test_what_is_given_twice_is_refused(compiled, name):
    compiled.compile(jit_compile=False, run_eagerly=True)
    inputs = {"input_ids": IDS, "labels": LABELS, "sample_weight": WEIGHTS}
    beside = {"labels": {"y": LABELS}, "sample_weight": {"sample_weight": WEIGHTS}}
    with pytest.raises(ValueError, match=f"{name} must be given once"):
        compiled.test_on_batch(inputs, **beside[name])


def test_what_stands_beside_a_mapping_counts(model, fine):
    loss = model({"input_ids": IDS}, labels=LABELS).loss
    assert float(loss) == float(model(IDS, labels=LABELS).loss)
    mapping = {"codebook_idx": 2, "input_ids": CODES}
    loss = fine(mapping, labels=CODE_LABELS).loss
    assert float(loss) == float(fine(2, CODES, labels=CODE_LABELS).loss)
    with pytest.raises(TypeError, match="input_ids"):
        model({"input_ids": IDS}, input_ids=IDS)
    with pytest.raises(TypeError, match="too many positional"):
        fine(2, *[None] * 20)


# === Several devices ===


@pytest.mark.slow
@pytest.mark.parametrize("name", ["semantic", "fine", "coarse", "codec"])
def test_two_devices_update_like_one(start, tmp_path, name):
    """Ignored labels are spread unevenly, and the last batch does not fill both."""
    assert start("fit_on_devices", tmp_path / "result.npz", name).exit_code() == 0
    with np.load(tmp_path / "result.npz") as arrays:
        (loss, *update), (other_loss, *other) = arrays["arr_0"], arrays["arr_1"]
    ratio = np.linalg.norm(other) / np.linalg.norm(update)
    assert ratio == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(other, update, atol=1e-6)
    assert other_loss == pytest.approx(loss, rel=1e-5)


# === Predict, functional models, export ===


@pytest.mark.parametrize("batch_size", [4, 3])
def test_predict_gives_the_logits_of_a_call(model, batch_size):
    inputs = {"input_ids": IDS, "labels": LABELS, "attention_mask": np.ones((4, 6))}
    output = model.predict(inputs, batch_size=batch_size, verbose=0)
    assert isinstance(output, ModelOutput) and list(output) == ["logits"]
    assert isinstance(output.logits, np.ndarray)
    np.testing.assert_allclose(output.logits, model(IDS).logits, atol=1e-5)


def test_predict_gives_what_is_asked_for(model, fine):
    options = {"use_cache": True, "output_hidden_states": True}
    output = model.predict_on_batch({"input_ids": IDS, **options})
    expected = model(IDS, **options)
    assert list(output) == list(expected)
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), output, expected
    )
    assert list(model.predict_on_batch(IDS)) == ["logits"]
    inputs = {"codebook_idx": CODEBOOKS, "input_ids": CODES}
    logits = fine.predict(inputs, verbose=0).logits
    np.testing.assert_allclose(logits, fine(**inputs).logits, atol=1e-5)


def test_functional_models(model, fine, tmp_path):
    ids = keras.Input((None,), dtype="int32")
    assert list(model(ids)) == ["logits"]
    output = model(ids, use_cache=True, output_hidden_states=True)
    keys = output.past_key_values[0][0]
    functional = keras.Model(ids, [keys, output.hidden_states[-1]])
    found, hidden = functional(IDS)
    expected = model(IDS, output_hidden_states=True)
    np.testing.assert_allclose(found, expected.past_key_values[0][0], atol=1e-5)
    np.testing.assert_allclose(hidden, expected.hidden_states[-1], atol=1e-5)
    logits = keras.Model(ids, model(ids).logits)
    assert logits.output_shape == (None, None, 30)
    logits.save(tmp_path / "functional.keras")
    again = keras.models.load_model(tmp_path / "functional.keras")
    np.testing.assert_allclose(again(IDS), model(IDS).logits, atol=1e-5)
    codebooks, codes = (
        keras.Input((), dtype="int32"),
        keras.Input((None, 4), dtype="int32"),
    )
    logits = keras.Model([codebooks, codes], fine(codebooks, codes).logits)
    expected = fine(CODEBOOKS, CODES).logits
    np.testing.assert_allclose(logits([CODEBOOKS, CODES]), expected, atol=1e-5)


def test_exports_give_what_a_call_gives(model, fine, tmp_path):
    for network, arguments in ((model, (IDS,)), (fine, (np.int32(2), CODES))):
        network.export(tmp_path / network.name, verbose=False)
        loaded = tf.saved_model.load(tmp_path / network.name)
        output = loaded.serve(*map(tf.constant, arguments))
        assert list(output) == ["logits"]
        expected = network(*arguments).logits
        np.testing.assert_allclose(output["logits"], expected, atol=1e-5)
    assert model(IDS).past_key_values is not None  # exporting is over
    spec, mask = tf.TensorSpec((None, None), tf.int32), np.ones_like(IDS)
    mask[0, :2] = 0
    signature = [{"input_ids": spec, "attention_mask": spec}]
    model.export(tmp_path / "mask", verbose=False, input_signature=signature)
    loaded, inputs = tf.saved_model.load(tmp_path / "mask"), {"input_ids": IDS}
    inputs = {
        name: tf.constant(x) for name, x in (inputs | {"attention_mask": mask}).items()
    }
    expected = model(IDS, attention_mask=mask).logits
    np.testing.assert_allclose(loaded.serve(inputs)["logits"], expected, atol=1e-5)


def test_exports_need_no_xla(tmp_path, monkeypatch):
    """A stock TensorFlow Serving refuses functions that XLA must compile."""
    monkeypatch.setattr(layers, "_FUSED_WIDTH", 1)
    config = toy.semantic_config(num_layers=1)
    BarkSemanticModel(config, dtype="bfloat16").export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    names = [function.signature.name for function in graph.library.function]
    assert not any("compiled" in name for name in names)


def test_the_codec_in_keras(tmp_path):
    codec = EncodecModel(toy.codec_config(upsampling_ratios=(8,), num_lstm_layers=0))
    audio = np.random.default_rng(0).normal(0, 0.3, (3, 40)).astype("float32")
    expected = codec(audio)
    predicted = codec.predict(audio, batch_size=2, verbose=0)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    symbolic = keras.Input((None,))
    functional = keras.Model(symbolic, codec(symbolic))
    np.testing.assert_allclose(functional(audio), expected, atol=1e-5)
    codec.export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(loaded.serve(tf.constant(audio)), expected, atol=1e-5)
    keras.models.clone_model(codec)


def test_clones_are_new_networks_of_the_same_configuration(model, fine):
    for network in (model, fine):
        clone = keras.models.clone_model(network)
        assert clone.config == network.config
        assert [v.path for v in clone.weights] == [v.path for v in network.weights]


def test_outputs_are_structures():
    output = ModelOutput(logits=1, hidden_states=(2, 3))
    assert keras.tree.flatten(output) == [1, 2, 3]
    doubled = keras.tree.map_structure(lambda x: 2 * x, output)
    assert isinstance(doubled, ModelOutput) and doubled == {
        "logits": 2,
        "hidden_states": (4, 6),
    }
    assert isinstance(tf.nest.map_structure(lambda x: 2 * x, output), ModelOutput)
    emptied = keras.tree.map_structure(lambda x: None, output)
    assert keras.tree.flatten(emptied) == [None] * 3


# === Files ===


def assert_same_values(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_adapters_come_back_from_a_keras_file_and_learn_on(tmp_path):
    keras.utils.set_random_seed(1)
    data = {"input_ids": IDS, "labels": IDS}
    model = BarkSemanticModel(toy.semantic_config(num_layers=1))
    model.enable_lora(2, targets=("qkv", "fc"))
    model.lm_head.enable_lora(3, lora_alpha=6)
    model.final_norm.gamma.trainable = True
    model.compile(keras.optimizers.AdamW(0.01), jit_compile=False)
    model.fit(data, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    names = [v.path for v in model.trainable_variables]
    assert [v.path for v in again.trainable_variables] == names
    assert len(names) == 7
    assert_same_values(again.weights, model.weights)
    for network in (model, again):
        network.fit(data, epochs=2, verbose=0)
    assert_same_values(again.weights, model.weights)
    assert_same_values(again.optimizer.variables, model.optimizer.variables)


def test_weights_files_with_and_without_adapters(model, tmp_path):
    adapted, plain = (keras.models.clone_model(model) for _ in range(2))
    adapted.enable_lora(2)
    for weight in adapted.trainable_weights:
        weight.assign(np.random.normal(0, 0.3, weight.shape))
    adapted.save_weights(tmp_path / "adapted.weights.h5")
    plain.load_weights(tmp_path / "adapted.weights.h5")
    expected = plain(IDS).logits
    assert toy.largest_difference(expected, adapted(IDS).logits) < 1e-5
    plain.save_weights(tmp_path / "plain.weights.h5")
    adapted.load_weights(tmp_path / "plain.weights.h5")
    assert toy.largest_difference(expected, adapted(IDS).logits) < 1e-6
    with tf.GradientTape() as tape:  # matrices that are both 0 would never learn
        loss = adapted(IDS, labels=IDS).loss
    b = adapted.blocks[0].mlp.fc.lora_kernel_b
    assert np.any(tape.gradient(loss, b.value))


def test_what_is_frozen_stays_frozen_in_a_file(tmp_path):
    codec = EncodecModel(toy.codec_config(upsampling_ratios=(8,), num_lstm_layers=1))
    codec.encoder.trainable = False
    model = BarkSemanticModel(toy.semantic_config(num_layers=1))
    model.position_embedding.trainable = False
    for network in (codec, model):
        network.save(tmp_path / "frozen.keras")
        again = keras.models.load_model(tmp_path / "frozen.keras")
        assert len(again.trainable_weights) < len(again.weights)
        paths = [v.path for v in network.trainable_weights]
        assert [v.path for v in again.trainable_weights] == paths


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_pure_half_precision_is_named_before_training(dtype):
    config = toy.semantic_config(num_layers=1)
    model = BarkSemanticModel(config, dtype=dtype)
    with pytest.warns(UserWarning, match=f"mixed_{dtype}"):
        model.compile("adam")
    model.enable_lora(2)  # in float32
    model.compile("adam")
    BarkSemanticModel(config, dtype=f"mixed_{dtype}").compile("adam")


# === Shapes ===


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("attention_mask", (4, 5), r"\(batch=4, slots=6\)"),
        ("attention_mask", (1, 6), r"\(batch=4, slots=6\)"),
        ("position_ids", (4, 5), r"\(batch=4, time=6\) or \(batch=1, time=6\) or"),
        ("head_mask", (3,), r"\(heads=4\) or \(layers=1, heads=4\)"),
        ("labels", (4, 5), r"\(batch=4, time=6\)"),
        ("sample_weight", (4, 1), r"\(batch=4\) or \(batch=4, time=6\)"),
    ],
)
def test_shapes_that_would_be_stretched_are_refused(model, name, shape, wanted):
    arguments = {"labels": IDS, name: np.ones(shape, "int32")}
    with pytest.raises(ValueError, match=f"{name} must have shape {wanted}"):
        model(IDS, **arguments)


def test_shapes_of_ids_embeddings_and_caches(model, fine):
    with pytest.raises(ValueError, match="input_ids must have shape"):
        model(IDS[0])
    with pytest.raises(ValueError, match=r"input_embeds .* hidden_size=16\)"):
        model(input_embeds=np.ones((1, 2, 8)))
    with pytest.raises(ValueError, match=r"input_ids .* n_codes_total=4\)"):
        fine(2, CODES.transpose(0, 2, 1))
    past = model(IDS).past_key_values
    swapped = [tuple(tf.transpose(x, (0, 2, 1, 3)) for x in pair) for pair in past]
    with pytest.raises(ValueError, match=r"past_key_values .* heads=4, past, size=4"):
        model(IDS[:, :1], past_key_values=swapped)
    with pytest.raises(ValueError, match="keys and values of 1 layers"):
        model(IDS[:, :1], past_key_values=past * 2)


# === Products by columns ===


@pytest.mark.parametrize(("time", "training"), [(5, False), (1, False), (5, True)])
def test_the_hidden_values_of_an_mlp_are_columns(fine, time, training, monkeypatch):
    """A product of two transposed factors is slow, and training keeps its gradients."""
    size = fine.config.hidden_size
    mlp = fine.blocks[0].mlp
    monkeypatch.setattr(products, "eigen_multiplies", lambda: False)
    graph = tf.function(mlp).get_concrete_function(
        tf.TensorSpec((1, time, size)), training=training
    )
    *_, last = [op for op in graph.graph.get_operations() if op.type == "MatMul"]
    columns = time > 1 and not training
    hidden = (4 * size, time) if columns else (time, 4 * size)
    assert last.inputs[columns].shape == hidden
    assert last.get_attr("transpose_b") != columns


@pytest.mark.parametrize("bias", [False, True])
def test_columns_are_the_outputs_of_a_projection(bias):
    layer = layers.Projection(3, bias, bias_initializer="normal")
    layer.build((None, None, 4))
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 5, 4)), tf.float32)
    expected = tf.transpose(layer(x)[0])
    for given, transpose in ((x[0], True), (tf.transpose(x[0]), False)):
        got = layer.columns(given, transpose)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert layer.has_columns(x, False) and not layer.has_columns(x, True)
    layer.enable_lora(2)
    assert not layer.has_columns(x, False)


# === Wanted positions ===


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ("semantic", lambda states: states[:, -2:]),
        (
            "fine_acoustics",
            lambda states: tf.gather(states, [[0, 3], [4, 1]], batch_dims=1),
        ),
    ],
)
def test_the_last_block_computes_what_is_wanted(part, wanted, monkeypatch):
    """It used to compute all positions, and most of them for nothing."""
    model, sizes, call = getattr(toy.shared_bark(), part), [], layers.Mlp.call

    def spy(self, x, **options):
        sizes.append(x.shape[1])
        return call(self, x, **options)

    monkeypatch.setattr(layers.Mlp, "call", spy)
    size = model.config.hidden_size
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 5, size)), tf.float32)
    padding = np.array([[0, 1, 1, 1, 1], [1] * 5])
    full = model.forward(x, padding=padding)
    some = model.forward(x, padding=padding, wanted=wanted)
    count = len(model.blocks)
    assert sizes == [5] * count + [5] * (count - 1) + [2]
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(some.hidden, wanted(full.hidden), **close)
    for ours, theirs in zip(some.cache, full.cache, strict=True):
        np.testing.assert_allclose(ours.keys, theirs.keys, **close)
        np.testing.assert_allclose(ours.values, theirs.values, **close)
