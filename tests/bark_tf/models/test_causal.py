import functools
import gc
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.generation.cache import LayerCache
from bark_tf.models.causal import BarkCausalModel, BarkCoarseModel, BarkSemanticModel
from bark_tf.models.layers import attention_mask
from bark_tf.models.losses import cross_entropy
from bark_tf.models.transformer import Block


@pytest.fixture(scope="module")
def model():
    return toy.randomize(BarkSemanticModel(toy.semantic_config()))


def test_variable_paths_are_an_interface():
    model = BarkCoarseModel(toy.coarse_config(num_layers=1, bias=False))
    assert sorted(v.path for v in model.weights) == [
        "block_0/attention/out/kernel",
        "block_0/attention/qkv/kernel",
        "block_0/mlp/fc/kernel",
        "block_0/mlp/proj/kernel",
        "block_0/norm_1/gamma",
        "block_0/norm_2/gamma",
        "final_norm/gamma",
        "lm_head/kernel",
        "position_embedding/embeddings",
        "token_embedding/embeddings",
    ]


def test_kernels_are_stored_as_in_the_checkpoint(model):
    shapes = {v.path: tuple(v.shape) for v in model.weights}
    assert shapes["block_0/attention/qkv/kernel"] == (48, 16)
    assert shapes["block_0/mlp/fc/kernel"] == (64, 16)
    assert shapes["lm_head/kernel"] == (30, 16)


def test_output_reads_by_name_attribute_and_position(model):
    output = model(toy.ids(2, 5), output_hidden_states=True, output_attentions=True)
    assert list(output) == ["logits", "past_key_values", "hidden_states", "attentions"]
    assert output[0] is output.logits is output["logits"]
    assert output.loss is None
    assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 5, 5)] * 2
    assert len(output.hidden_states) == 3
    assert np.allclose(np.sum(output.attentions[0], -1), 1, atol=1e-6)
    plain = model(toy.ids(2, 5), return_dict=False, use_cache=False)
    assert isinstance(plain, tuple) and len(plain) == 1


@pytest.mark.parametrize("position", range(6))
def test_a_token_changes_nothing_before_it(model, position):
    ids = toy.ids(1, 6)
    other = ids.copy()
    other[0, position] = (ids[0, position] + 1) % 30
    a, b = model(ids).logits, model(other).logits
    assert np.array_equal(a[:, :position], b[:, :position])
    assert not np.array_equal(a[:, position], b[:, position])


@pytest.mark.parametrize("split", [1, 4, 7])
def test_going_on_from_a_cache_equals_one_pass(model, split):
    ids, mask = toy.ids(2, 8), np.ones((2, 8), int)
    mask[1, :2] = 0
    whole = model(ids, attention_mask=mask)
    first = model(ids[:, :split], attention_mask=mask[:, :split])
    second = model(
        ids[:, split:], past_key_values=first.past_key_values, attention_mask=mask
    )
    for row, start in ((0, 0), (1, 2)):  # what padding computes is never used
        seen = slice(max(split, start), 8)
        late = slice(max(0, start - split), 8 - split)
        a, b = whole.logits[row, seen], second.logits[row, late]
        assert toy.largest_difference(a, b) < 1e-5
        for pair, other in zip(
            whole.past_key_values, second.past_key_values, strict=True
        ):
            for a, b in zip(pair, other, strict=True):
                assert (
                    toy.largest_difference(a[row, :, start:], b[row, :, start:]) < 1e-5
                )


def test_padding_is_not_seen(model):
    ids, mask = toy.ids(1, 6), np.array([[1, 1, 0, 1, 1, 1]])
    other = ids.copy()
    other[0, 2] = (ids[0, 2] + 1) % 30
    a, b = model(ids, attention_mask=mask), model(other, attention_mask=mask)
    assert np.array_equal(a.logits[:, 3:], b.logits[:, 3:])
    assert np.allclose(
        model(ids, attention_mask=np.ones((1, 6))).logits, model(ids).logits
    )


def test_position_ids_choose_the_positions(model):
    ids = toy.ids(1, 4)
    shifted = model(ids, position_ids=np.array([[5, 6, 7, 8]])).logits
    assert not np.allclose(shifted, model(ids).logits, atol=1e-2)
    again = model(ids, position_ids=np.array([[0, 1, 2, 3]])).logits
    assert np.array_equal(again, model(ids).logits)


def test_embeddings_take_the_place_of_ids(model):
    ids = toy.ids(2, 4)
    embeds = model.token_embedding(ids)
    for name in ("input_embeds", "inputs_embeds"):
        assert np.array_equal(model(**{name: embeds}).logits, model(ids).logits)


def test_head_mask_switches_heads_off(model):
    ids = toy.ids(1, 4)
    ones = model(ids, head_mask=np.ones((2, 4), "float32")).logits
    assert np.allclose(ones, model(ids).logits, atol=1e-6)
    per_layer = np.ones((2, 4), "float32")
    per_layer[1] = 0
    off = model(ids, head_mask=per_layer, output_hidden_states=True)
    assert not np.allclose(off.logits, ones, atol=1e-2)
    both = model(ids, head_mask=np.zeros(4, "float32")).logits
    assert not np.allclose(both, off.logits, atol=1e-2)
    mask = np.array([1, 0.5, 0, 1], "float32")
    plain, masked = (
        model(ids, head_mask=one, output_attentions=True).attentions[0]
        for one in (None, mask)
    )
    assert np.allclose(masked, plain * mask[:, None, None], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Exactly one of input_ids and input_embeds"),
        (
            {"input_ids": toy.ids(1, 2), "input_embeds": np.ones((1, 2, 16))},
            "Exactly one of",
        ),
        ({"input_ids": toy.ids(1, 49)}, "block_size=48"),
    ],
)
def test_wrong_arguments_are_named(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_another_configuration_is_refused():
    with pytest.raises(ValueError, match="takes a BarkSemanticConfig"):
        BarkSemanticModel(toy.coarse_config())


# === Labels and training ===


def test_labels_give_the_cross_entropy_of_the_next_token(model):
    ids = toy.ids(2, 6)
    labels = ids.copy()
    labels[0, :3] = -100
    output = model(ids, labels=labels)
    expected = cross_entropy(output.logits[:, :-1], labels[:, 1:])
    assert float(output.loss) == float(expected)
    assert output[0] is output.loss
    weights = np.random.default_rng(0).uniform(size=(2, 6))
    weighted = model(ids, labels=labels, sample_weight=weights).loss
    expected = cross_entropy(output.logits[:, :-1], labels[:, 1:], weights[:, 1:])
    assert float(weighted) == float(expected)


def overfit(model, element, steps=150, rate=0.03, jit_compile=False, **options):
    optimizer = keras.optimizers.AdamW(rate)
    model.compile(optimizer=optimizer, jit_compile=jit_compile, **options)
    dataset = tf.data.Dataset.from_tensors(element).repeat(steps)
    model.fit(dataset, verbose=0, shuffle=False)
    return model.evaluate(dataset.take(1), verbose=0)


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "mixed_float16",
        pytest.param("mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_one_batch_is_learned_by_heart(dtype):
    keras.utils.set_random_seed(1)
    model = BarkSemanticModel(toy.semantic_config(), dtype=dtype)
    ids = toy.ids(2, 8)
    element, compiled = {"input_ids": ids, "labels": ids}, dtype == "float32"
    assert overfit(model, element, jit_compile=compiled) < 0.05
    predicted = np.argmax(model(ids).logits, -1)
    assert np.array_equal(predicted[:, :-1], ids[:, 1:])


def test_labels_may_stand_beside_the_inputs_with_weights():
    keras.utils.set_random_seed(1)
    model = BarkCoarseModel(toy.coarse_config())
    ids = toy.ids(2, 8)
    weights = np.ones((2, 8), "float32")
    loss = overfit(
        model, (ids, ids, weights), weighted_metrics=["sparse_categorical_accuracy"]
    )
    assert loss[0] < 0.05


def test_training_without_labels_is_one_clear_error():
    model = BarkSemanticModel(toy.semantic_config())
    model.compile(optimizer="adam", jit_compile=False)
    with pytest.raises(ValueError, match="semantic needs labels to train"):
        model.fit(
            tf.data.Dataset.from_tensors({"input_ids": toy.ids(1, 4)}),
            verbose=0,
            shuffle=False,
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_gradients(dropout):
    """Recomputing a block must draw the same dropout again, or gradients are wrong."""
    ids = toy.ids(2, 6)

    def gradients(checkpointing):
        keras.utils.set_random_seed(0)
        config = toy.semantic_config(dropout=dropout)
        model = BarkSemanticModel(config, gradient_checkpointing=checkpointing)
        toy.randomize(model)
        with tf.GradientTape() as tape:
            loss = model(ids, labels=ids, training=True).loss
        return tape.gradient(loss, [v.value for v in model.trainable_weights])

    for a, b in zip(gradients(False), gradients(True), strict=True):
        a, b = tf.convert_to_tensor(a), tf.convert_to_tensor(b)
        assert toy.largest_difference(a, b) < 1e-6


def test_a_token_that_repeats_has_one_gradient():
    """Keras's embedding gives a gradient row per occurrence of a token; optimizers
    square the rows one by one: padding moved too fast, and clipping was wrong."""
    model = toy.randomize(BarkSemanticModel(toy.semantic_config()))
    ids = np.array([[3, 3, 3, 5]])
    table = model.token_embedding.embeddings
    read = tf.one_hot(ids, table.shape[0])

    def gradient(**inputs):
        with tf.GradientTape() as tape:
            embeds = tf.matmul(read, table.value) if not inputs else None
            loss = model(**inputs, input_embeds=embeds, labels=ids).loss
        return tape.gradient(loss, table.value)

    found, expected = gradient(input_ids=ids), gradient()
    assert not isinstance(found, tf.IndexedSlices)
    assert toy.largest_difference(found, expected) < 1e-6


def test_dropout_is_on_only_while_training():
    model = toy.randomize(BarkSemanticModel(toy.semantic_config(dropout=0.5)))
    ids = toy.ids(1, 6)
    assert np.array_equal(model(ids).logits, model(ids).logits)
    noisy = [model(ids, training=True).logits for _ in range(2)]
    assert not np.allclose(noisy[0], noisy[1])
    assert not np.allclose(noisy[0], model(ids).logits)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.9])
def test_dropout_keeps_the_mean(rate):
    from bark_tf.models.layers import Dropout

    drop = Dropout(rate, tf.constant([1, 2]))
    dropped = drop(tf.ones((203, 205)), place=0)  # no multiple of four numbers
    assert float(tf.reduce_mean(dropped)) == pytest.approx(1, abs=0.06)
    zero = tf.cast(dropped == 0, tf.float32)
    assert float(tf.reduce_mean(zero)) == pytest.approx(rate, abs=0.01)
    # What is dropped says nothing about its neighbours, in either direction.
    for first, second in ((zero[:, :-1], zero[:, 1:]), (zero[:-1], zero[1:])):
        both = float(tf.reduce_mean(first * second))
        assert both == pytest.approx(rate**2, abs=0.02)
    assert not np.array_equal(dropped, drop(tf.ones((203, 205)), place=1))


def test_dropout_is_the_same_compiled():
    from bark_tf.models.layers import Dropout

    def drop(seed):
        return Dropout(0.3, seed)(tf.ones((3, 5, 7)), place=2)

    seed = tf.constant([5, 6])
    for compiled in (False, True):
        graph = tf.function(drop, jit_compile=compiled)(seed)
        assert np.array_equal(graph, drop(seed))


def test_the_gradient_of_dropout_is_its_own_mask():
    from bark_tf.models.layers import Dropout

    ones = tf.ones((30, 41))
    with tf.GradientTape() as tape:
        tape.watch(ones)
        dropped = Dropout(0.3, tf.constant([5, 6]))(ones, place=2)
    assert np.array_equal(tape.gradient(dropped, ones), dropped)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-14), ("float32", 1e-6), ("bfloat16", 0.02)]
)
def test_gelu_and_its_gradient_in_training(dtype, tolerance):
    from bark_tf.models.layers import exact_gelu, fused_gelu

    x = tf.cast(tf.linspace(-6.0, 6.0, 201), dtype)
    exact = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in np.float64(x)]
    slopes = [
        0.5 * math.erfc(-v / math.sqrt(2))
        + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
        for v in np.float64(x)
    ]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = fused_gelu(x)
    gradient = tape.gradient(y, x)
    assert y.dtype == gradient.dtype == x.dtype
    for found in (y, exact_gelu(x)):
        assert np.allclose(np.float64(found), exact, atol=tolerance, rtol=tolerance)
    assert np.allclose(np.float64(gradient), slopes, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-14), ("float32", 1e-6), ("bfloat16", 0.02)]
)
def test_the_softmax_of_training_and_its_gradient(dtype, tolerance, causal, rng):
    from bark_tf.models.layers import fused_softmax, masked_softmax

    scores = tf.cast(rng.normal(0, 3, (2, 3, 5, 5)), dtype)
    upstream = tf.cast(rng.normal(0, 1, (2, 3, 5, 5)), dtype)
    # The first row's last two slots are padding.
    padding = tf.constant([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    visible = attention_mask(5, 5, 0, padding, tf.as_dtype(dtype), causal)

    def both(softmax):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            weights = softmax(scores, visible)
        return weights, tape.gradient(weights, scores, upstream)

    for found, expected in zip(both(fused_softmax), both(masked_softmax), strict=True):
        assert found.dtype == scores.dtype
        assert np.abs(np.float64(found) - np.float64(expected)).max() < tolerance
    assert not np.any(np.float64(both(fused_softmax)[1])[0, ..., 3:])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_takes_the_fused_gradients(checkpointing):
    model = BarkSemanticModel(
        toy.semantic_config(dropout=0.1), gradient_checkpointing=checkpointing
    )

    @tf.function
    def step(ids):
        with tf.GradientTape() as tape:
            loss = model(ids, labels=ids, training=True).loss
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function(toy.ids(2, 6)).graph.as_graph_def()
    used = [f.signature.name for f in graph.library.function]
    for name in ("gelu_gradient", "softmax_gradient", "drop"):
        assert any(f"_compiled_{name}" in one for one in used), name


@pytest.mark.parametrize("compiled", [False, True])
def test_wide_networks_fuse_gelu_in_half_precision(compiled, monkeypatch):
    from bark_tf.models import layers

    config = toy.semantic_config()
    model = toy.randomize(BarkSemanticModel(config, dtype="bfloat16"))
    ids = toy.ids(2, 6)
    before = model(ids).logits
    monkeypatch.setattr(layers, "_FUSED_WIDTH", 1)
    logits = tf.function(lambda ids: model(ids).logits, jit_compile=compiled)
    scale = float(tf.reduce_max(tf.abs(tf.cast(before, tf.float32))))
    assert toy.largest_difference(logits(ids), before) < 0.02 * scale
    graph = logits.get_concrete_function(ids).graph.as_graph_def()
    assert any("_compiled_gelu" in f.signature.name for f in graph.library.function)


# === What Keras users expect ===


def test_adapters_train_alone_and_start_at_the_model(model):
    model = toy.randomize(BarkSemanticModel(toy.semantic_config()))
    ids = toy.ids(2, 8)
    before = model(ids).logits
    model.enable_lora(4, targets=("qkv", "block_1/mlp/fc"))
    assert np.allclose(model(ids).logits, before, atol=1e-6)
    names = {v.path for v in model.trainable_weights}
    assert names == {
        f"{layer}/lora_kernel_{half}"
        for layer in (
            "block_0/attention/qkv",
            "block_1/attention/qkv",
            "block_1/mlp/fc",
        )
        for half in "ab"
    }
    head = np.asarray(model.lm_head.kernel)
    first = model(ids, labels=ids).loss
    assert overfit(model, {"input_ids": ids, "labels": ids}, rate=0.02) < 0.7 * first
    assert np.array_equal(head, model.lm_head.kernel)


@pytest.mark.parametrize(
    ("rank", "targets", "message"), [(0, ("qkv",), "rank"), (2, ("qvk",), "qvk")]
)
def test_wrong_adapters_are_refused(rank, targets, message):
    model = BarkSemanticModel(toy.semantic_config())
    with pytest.raises(ValueError, match=message):
        model.enable_lora(rank, targets=targets)
    assert len(model.trainable_weights) == len(model.weights)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_blocks_stay_near(mode):
    model = toy.randomize(BarkSemanticModel(toy.semantic_config()), stddev=0.2)
    ids = toy.ids(2, 8)
    before = model(ids).logits
    model.quantize(mode)
    kernel = model.blocks[0].attention.qkv._kernel
    assert kernel.dtype in ("int8", "uint8")
    difference = toy.largest_difference(before, model(ids).logits)
    assert 0 < difference < {"int8": 0.1, "int4": 1.0}[mode] * float(np.std(before)) * 3


def test_quantizing_does_not_search_all_objects_for_every_kernel(monkeypatch):
    """Keras collects garbage for each, which took 30 s of bark-small's 33."""
    model, frozen = BarkSemanticModel(toy.semantic_config()), []
    monkeypatch.setattr(gc, "collect", lambda: frozen.append(gc.get_freeze_count()))
    model.quantize("int8")
    assert frozen and all(frozen) and not gc.get_freeze_count()


def test_8_bit_kernels_multiply_inputs_that_are_not_rounded():
    model = toy.randomize(BarkSemanticModel(toy.semantic_config(bias=True)))
    model.quantize("int8")
    layer = model.blocks[0].attention.qkv
    x = np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32)
    kernel = np.float32(layer._kernel) / np.reshape(layer.kernel_scale, (-1, 1))
    expected = x @ kernel.T + np.array(layer.bias)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["nothing", "dtype", "int8"])
def test_keras_files_give_the_same_model(tmp_path, change):
    model = BarkSemanticModel(
        toy.semantic_config(dropout=0.1),
        dtype="bfloat16" if change == "dtype" else "float32",
        gradient_checkpointing=True,
        name="mine",
    )
    if change == "int8":
        model.quantize("int8")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    ids = toy.ids(1, 5)
    assert np.array_equal(
        tf.cast(again(ids).logits, "float32"), tf.cast(model(ids).logits, "float32")
    )
    assert again.config == model.config and again.name == "mine"
    assert again.gradient_checkpointing


def test_weights_files_and_summary(tmp_path, model):
    model.save_weights(tmp_path / "model.weights.h5")
    other = BarkSemanticModel(toy.semantic_config())
    other.load_weights(tmp_path / "model.weights.h5")
    ids = toy.ids(1, 5)
    assert np.array_equal(other(ids).logits, model(ids).logits)
    lines = []
    model.summary(print_fn=lines.append)
    assert "block_0" in "\n".join(lines)


# === Dtypes and compilers ===


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 0.3), ("float16", 0.05), ("float64", 1e-5)]
)
def test_other_dtypes_stay_near_float32(model, dtype, tolerance):
    other = BarkSemanticModel(toy.semantic_config(), dtype=dtype)
    for a, b in zip(other.weights, model.weights, strict=True):
        a.assign(tf.cast(b.value, a.dtype))
    ids = toy.ids(2, 6)
    logits = other(ids).logits
    assert logits.dtype == dtype
    scale = float(np.std(model(ids).logits))
    difference = toy.largest_difference(tf.cast(logits, "float32"), model(ids).logits)
    assert difference < tolerance * scale


def test_compiled_equals_eager_and_any_size_needs_one_trace(model):
    traces = []

    def run(ids):
        traces.append(1)
        return model(ids).logits

    spec = [tf.TensorSpec((None, None), tf.int32)]
    graph = tf.function(run, input_signature=spec)
    compiled = tf.function(run, jit_compile=True)
    for shape in ((1, 3), (2, 7)):
        ids = toy.ids(*shape)
        assert toy.largest_difference(graph(ids), model(ids).logits) < 1e-5
        assert toy.largest_difference(compiled(ids), model(ids).logits) < 1e-5
    assert len(traces) == 1 + 2


def test_known_sizes_cost_no_operations(model):
    """Every operation takes time when a program is first traced."""

    def kinds(shape):
        spec = tf.TensorSpec((*shape, model.config.hidden_size), tf.float32)
        visible = attention_mask(4, 4, 0, None, tf.float32, True)
        attend = tf.function(lambda x: model.blocks[0].attention(x, visible=visible)[0])
        graph = attend.get_concrete_function(spec).graph
        return [operation.type for operation in graph.get_operations()]

    known, unknown = kinds((2, 4)), kinds((None, None))
    assert not {"Shape", "StridedSlice", "Pack"} & {*known}
    assert {"Shape", "StridedSlice"} <= {*unknown}
    assert len(known) < len(unknown)


def test_one_trace_of_a_block_serves_all_layers(monkeypatch):
    """Tracing, and optimising what was traced, is most of a short text's time."""
    model = toy.randomize(BarkCausalModel(toy.semantic_config(num_layers=4)))
    call, traced = Block.call, []

    @functools.wraps(call)
    def counted(self, *args, **kwargs):
        traced.append(self.name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Block, "call", counted)
    options = {"max_new_tokens": 3, "do_sample": False, "jit_compile": False}
    model.generate(toy.ids(1, 5), **options)
    # The prompt, of which only the last position is wanted; and the loop.
    assert traced == ["block_0", "block_3", "block_0"]

    def check(count):
        traced.clear()
        hidden = tf.function(lambda x: model.forward(x, one_trace=True).hidden)(x)
        assert len(traced) == count
        assert toy.largest_difference(hidden, model.forward(x).hidden) < 1e-5

    x = model.token_embedding(toy.ids(2, 3))
    check(1)
    model.quantize("int8")
    check(1)
    model = toy.randomize(BarkSemanticModel(toy.semantic_config(num_layers=4)))
    model.enable_lora(2, targets=("block_1/mlp/fc",))
    toy.randomize(model)
    check(4)


def test_some_logits_equal_those_of_all(model):
    x = model.forward(model.token_embedding(toy.ids(2, 3))).hidden
    every = model.logits(x)
    some = model.logits(x, tf.constant(4), 9)
    assert toy.largest_difference(every[:, :, 4:13], some) < 1e-5


def test_static_cache_equals_no_cache_at_any_start(model):
    """Rows of different lengths are decoded together, padded on the left."""
    ids, slots, width = toy.ids(2, 5), 12, 8
    starts = np.array([3, 5])
    padded = np.zeros((2, width), np.int32)
    for row, start in enumerate(starts):
        padded[row, start:] = ids[row, : width - start]
    shape = (2 * 4, slots, 4)
    empty = LayerCache(tf.zeros(shape), tf.zeros((shape[0], shape[2], shape[1])))
    cache = (empty,) * model.config.num_layers
    x, _, _, _ = model.forward(
        model.token_embedding(padded),
        cache,
        0,
        position_ids=np.maximum(np.arange(width)[None] - starts[:, None], 0),
        padding=np.arange(slots)[None] >= starts[:, None],
    )
    for row, start in enumerate(starts):
        alone = model.forward(
            model.token_embedding(ids[row : row + 1, : width - start])
        )
        assert toy.largest_difference(x[row : row + 1, start:], alone[0]) < 1e-5


def test_the_base_class_serves_any_transformer_config():
    """It continues ids like any language model: greedily, that is its best logits."""
    config = toy.semantic_config(num_layers=1)
    model = toy.randomize(BarkCausalModel(config, name="any"))
    ids = toy.ids(3, 4)
    assert model(ids).logits.shape == (3, 4, 30)
    made = model.generate(ids, max_new_tokens=5, jit_compile=False)
    assert made.shape == (3, 9) and np.array_equal(made[:, :4], ids)
    best = np.argmax(model(made[:, :-1]).logits, axis=-1)
    np.testing.assert_array_equal(made[:, 4:], best[:, 3:])
    end = int(made[1, 5])
    ended = model.generate(ids, eos_token_id=end, max_new_tokens=5, jit_compile=False)
    np.testing.assert_array_equal(ended[1, 5:], np.full(ended.shape[1] - 5, end))
    options = {"max_new_tokens": 5, "jit_compile": False, "pad_token_id": 0}
    padded = model.generate(ids, eos_token_id=end, **options)
    assert padded[1, 5] == end and not np.any(padded[1, 6:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 46}, r"max_new_tokens must lie in \[1, 45\] after 4 of 48"),
        ({"top_q": 1}, "no field 'top_q'"),
        ({"num_beams": 2}, "does not support num_beams"),
    ],
)
def test_generation_that_cannot_be(model, options, message):
    with pytest.raises(ValueError, match=message):
        BarkCausalModel.generate(model, toy.ids(1, 4), **options)
    with pytest.raises(ValueError, match=r"input_ids must lie in \[0, 40\)"):
        BarkCausalModel.generate(model, [[40]])


# === Habits of transformers ===


def test_more_and_fewer_ids_can_be_read(tmp_path):
    model = toy.randomize(BarkSemanticModel(toy.semantic_config(num_layers=1)))
    ids, paths = toy.ids(2, 5), [weight.path for weight in model.weights]
    expected, table = model(ids).logits, model.token_embedding.embeddings.numpy()
    resized = model.resize_token_embeddings(41, pad_to_multiple_of=8)
    assert resized is model.get_input_embeddings() is model.token_embedding
    assert model.config.vocab_size == 48 and model.config.output_vocab_size == 30
    new = model.token_embedding.embeddings.numpy()
    np.testing.assert_array_equal(new[:40], table)
    assert np.abs(new[40:] - table.mean(0)).max() < 1e-6
    np.testing.assert_array_equal(model(ids).logits, expected)
    assert [weight.path for weight in model.weights] == paths
    model.save_pretrained(tmp_path)
    again = BarkSemanticModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.token_embedding.embeddings, new)
    model.resize_token_embeddings(35)
    model.resize_token_embeddings(36, mean_resizing=False)
    new = model.token_embedding.embeddings.numpy()
    np.testing.assert_array_equal(new[:35], table[:35])
    assert 0 < np.abs(new[35]).max() < 0.1
    assert any(w is resized.embeddings for w in model.trainable_weights)
    model.compile(optimizer="sgd")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="comes before training"):
        model.resize_token_embeddings(40)
    with pytest.raises(ValueError, match=r"must be positive. Received: -1"):
        model.resize_token_embeddings(-1)


def test_gradient_checkpointing_can_be_switched(model):
    model = BarkSemanticModel(toy.semantic_config(num_layers=1))
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.gradient_checkpointing
    assert model.get_config()["gradient_checkpointing"]
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
