import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.models.fine import BarkFineModel
from bark_tf.models.losses import cross_entropy


@pytest.fixture(scope="module")
def model():
    return toy.randomize(BarkFineModel(toy.fine_config()))


def test_norms_have_a_bias_though_nothing_else_has():
    model = BarkFineModel(toy.fine_config(bias=False, num_layers=1))
    names = {v.path for v in model.weights}
    assert {"block_0/norm_1/beta", "final_norm/beta"} <= names
    assert not any(name.endswith("bias") for name in names)
    assert not any("lm_head" in name for name in names)  # tied


def test_untied_heads_are_variables_of_their_own():
    model = BarkFineModel(toy.fine_config(tie_word_embeddings=False))
    assert {v.path for v in model.weights if "lm_head" in v.path} == {
        f"lm_head_{i}/kernel" for i in range(3)
    }
    assert model(1, toy.ids(1, 3, 4)).logits.shape == (1, 3, 30)


@pytest.mark.parametrize("codebook", [1, 2, 3])
def test_a_codebook_sees_itself_and_those_before_it(model, codebook):
    ids = toy.ids(1, 5, 4)
    for channel in range(4):
        other = ids.copy()
        other[0, 2, channel] = (ids[0, 2, channel] + 1) % 30
        same = np.array_equal(
            model(codebook, other).logits, model(codebook, ids).logits
        )
        assert same == (channel > codebook)


def test_every_position_sees_every_other(model):
    ids = toy.ids(1, 5, 4)
    other = ids.copy()
    other[0, 4, 0] = (ids[0, 4, 0] + 1) % 30
    difference = np.abs(np.asarray(model(1, ids).logits - model(1, other).logits))
    assert (difference.max(-1) > 1e-3).all()


def test_heads_are_the_embeddings_of_the_next_codebook(model):
    ids = toy.ids(1, 3, 4)
    x = model.forward(model.embed(2, ids)).hidden
    expected = np.asarray(x) @ np.asarray(model.token_embeddings[2].embeddings).T
    assert toy.largest_difference(model(2, ids).logits, expected) < 1e-5


def test_one_program_serves_every_codebook_and_rows_may_differ(model):
    ids = toy.ids(3, 4, 4)
    traces = []

    @tf.function
    def run(codebook):
        traces.append(1)
        return model(codebook, ids).logits

    for codebook in (1, 2, 3):
        expected = model(codebook, ids).logits
        assert toy.largest_difference(run(tf.constant(codebook)), expected) < 1e-5
    assert len(traces) == 1
    mixed = model(np.array([1, 2, 3]), ids).logits
    for row, codebook in enumerate((1, 2, 3)):
        assert (
            toy.largest_difference(mixed[row], model(codebook, ids).logits[row]) < 1e-5
        )


@pytest.mark.parametrize("codebook", [0, 4, -1, 1.5, True, None, "2"])
def test_a_codebook_out_of_range_is_refused(model, codebook):
    if codebook is True:
        codebook = np.array([[1]])
    with pytest.raises(ValueError, match="codebook_idx must be a whole number in"):
        model(codebook, toy.ids(1, 3, 4))


def test_arguments_by_position_as_in_transformers(model):
    ids, mask = toy.ids(2, 4, 4), np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    by_position = model(2, ids, mask).logits
    by_name = model(codebook_idx=2, input_ids=ids, attention_mask=mask).logits
    assert np.array_equal(by_position, by_name)
    assert not np.allclose(by_position[0, :3], model(2, ids).logits[0, :3])


def test_embeddings_take_the_place_of_ids(model):
    ids = toy.ids(2, 4, 4)
    assert np.array_equal(
        model(2, input_embeds=model.embed(2, ids)).logits, model(2, ids).logits
    )
    with pytest.raises(ValueError, match="Exactly one of"):
        model(2)
    with pytest.raises(ValueError, match="block_size=48"):
        model(2, toy.ids(1, 49, 4))


def test_labels_are_predicted_in_place(model):
    ids, labels = toy.ids(2, 5, 4), toy.ids(2, 5, 4, seed=1)
    labels[0, 2:, 3] = -100
    output = model(3, ids, labels=labels)
    expected = float(cross_entropy(output.logits, labels[:, :, 3]))
    assert float(output.loss) == expected
    assert float(model(3, ids, labels=labels[:, :, 3]).loss) == expected
    rows = model(np.array([1, 3]), ids, labels=labels)
    picked = np.stack([labels[0, :, 1], labels[1, :, 3]])
    assert float(rows.loss) == float(cross_entropy(rows.logits, picked))


def test_one_batch_is_learned_by_heart_for_every_codebook():
    keras.utils.set_random_seed(1)
    model = BarkFineModel(toy.fine_config())
    ids = toy.ids(3, 6, 4)
    # The codebook that is predicted shows nothing, as in generation.
    hidden = ids.copy()
    for row in range(3):
        hidden[row, :, row + 1 :] = 29
    element = {
        "codebook_idx": np.array([1, 2, 3], np.int32),
        "input_ids": hidden,
        "labels": ids,
    }
    model.compile(optimizer=keras.optimizers.AdamW(0.02), jit_compile=False)
    dataset = tf.data.Dataset.from_tensors(element).repeat(200)
    model.fit(dataset, verbose=0, shuffle=False)
    assert model.evaluate(dataset.take(1), verbose=0) < 0.05


def test_keras_files_and_dtypes(tmp_path, model):
    ids = toy.ids(1, 4, 4)
    for dtype in ("float16", "bfloat16", "float64", "mixed_bfloat16"):
        other = BarkFineModel(toy.fine_config(), dtype=dtype)
        for a, b in zip(other.weights, model.weights, strict=True):
            a.assign(tf.cast(b.value, a.dtype))
        a, b = tf.cast(other(2, ids).logits, "float32"), model(2, ids).logits
        assert toy.largest_difference(a, b) < 0.3 * float(np.std(b))
    model.save(tmp_path / "fine.keras")
    again = keras.models.load_model(tmp_path / "fine.keras")
    assert np.array_equal(again(2, ids).logits, model(2, ids).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_more_codes_can_be_read_and_predicted(tied, tmp_path):
    config = toy.fine_config(num_layers=1, tie_word_embeddings=tied)
    model = toy.randomize(BarkFineModel(config))
    codes = toy.ids(1, 5, 4)
    expected = model(2, codes).logits
    assert model.resize_token_embeddings(33) == model.get_input_embeddings()
    assert model.config.input_vocab_size == model.config.output_vocab_size == 33
    logits = model(2, codes).logits
    assert logits.shape == (1, 5, 33)
    np.testing.assert_array_equal(logits[..., :30], expected)
    model.save_pretrained(tmp_path)
    again = BarkFineModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(2, codes).logits, logits)
