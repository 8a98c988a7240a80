"""Training the codec: losses fall; codebooks are initialised, updated and revived."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf import EncodecConfig, EncodecModel
from bark_tf.config import CtcConfig
from bark_tf.models.ctc import CtcModel
from bark_tf.models.encodec.conv import Convolution
from bark_tf.semantic_tokens.ctc import CtcTokenizer
from bark_tf.training.codec.discriminator import Discriminator
from bark_tf.training.codec.losses import RecogniserDistance
from bark_tf.training.codec.trainer import (
    AudioBatches,
    CodecTrainer,
    audio_level,
    kmeans,
    start_at_level,
)
from bark_tf.training.options import CodecOptions

RATE = 8_000
LEVEL = 0.08


@pytest.fixture
def config():
    return EncodecConfig(
        sampling_rate=RATE,
        num_filters=4,
        hidden_size=8,
        upsampling_ratios=(4, 2),
        num_lstm_layers=1,
        codebook_size=16,
        target_bandwidths=(12.0,),
    )


@pytest.fixture
def batch(rng):
    """Modulated tones, float32 (4, 1600)."""
    time = np.arange(1600) / RATE
    pitch = rng.uniform(200, 900, (4, 1))
    audio = np.sin(2 * np.pi * pitch * time) * (1 + np.sin(2 * np.pi * 6 * time))
    return {"audio": (LEVEL * audio).astype(np.float32)}


def trainer_of(
    config, discriminator=None, rate=3e-3, dtype=None, tokenizer=None, **options
):
    keras.utils.set_random_seed(1)
    codec = EncodecModel(config, dtype=dtype)
    start_at_level(codec, LEVEL)
    options = CodecOptions(**options)
    trainer = CodecTrainer(codec, options, discriminator, tokenizer=tokenizer)
    trainer.compile(optimizer=keras.optimizers.Adam(rate))
    return trainer


def run_eagerly(trainer):
    """For a few steps, of which tracing would take longer."""
    trainer.compile(optimizer=trainer.optimizer, run_eagerly=True)


def run(trainer, batch, steps):
    dataset = tf.data.Dataset.from_tensors(batch).repeat(steps)
    how = {"steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    return trainer.fit(dataset, epochs=steps, **how).history


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_a_codec_learns_from_scratch_in_one_trace(config, batch, dtype):
    trainer = trainer_of(config, dtype=dtype, quantize_from=20, kmeans_latents=1600)
    traces, follow = [], trainer._follow
    trainer._follow = lambda latent: (traces.append(1), follow(latent))
    history = run(trainer, batch, 80)
    assert np.mean(history["mel"][-5:]) < 0.5 * history["mel"][0]
    assert history["commitment"][19] == 0 < history["commitment"][20]
    assert len(traces) == 1
    codes = trainer.codec.encode(batch["audio"], bandwidth=12.0).numpy()
    assert len(np.unique(codes[:, 0])) > 8
    dataset = tf.data.Dataset.from_tensors(batch)
    result = trainer.evaluate(dataset, verbose=0, return_dict=True)
    for name in ("mel", "waveform"):
        assert 0 < result[name] < history[name][0]


@pytest.mark.parametrize(("weight", "share", "steps"), [(0.0, 1.0, 2), (0.01, 0.9, 20)])
def test_latents_that_grew_come_back(config, batch, weight, share, steps):
    nothing_else = dict.fromkeys(("mel", "waveform", "commitment"), 0.0)
    trainer = trainer_of(config, weights={**nothing_else, "level": weight})
    for layer in trainer.codec.encoder._flatten_layers():
        if isinstance(layer, Convolution):
            layer.scale.assign(4 * layer.scale)
    if steps < 10:
        run_eagerly(trainer)
    levels = run(trainer, batch, steps)["level"]
    assert levels[-1] == pytest.approx(min(levels), rel=1e-5)
    assert levels[-1] <= share * levels[0]
    assert (weight > 0) == (levels[-1] < 0.999 * levels[0])


def test_the_gain_of_all_audio_stays(config, batch):
    trainer = trainer_of(config, rate=0.1)
    run_eagerly(trainer)
    last = trainer.codec.decoder.output_conv
    before = last.direction.numpy()
    run(trainer, batch, 1)
    np.testing.assert_array_equal(last.scale.numpy(), np.float32(LEVEL))
    assert np.any(last.direction.numpy() != before)
    normed = config.replace(norm_type="time_group_norm")
    trainer = trainer_of(normed, rate=0.1)
    run_eagerly(trainer)
    last = trainer.codec.decoder.output_conv
    before = [variable.numpy() for variable in last.trainable_variables]
    run(trainer, batch, 1)
    for variable, old in zip(last.trainable_variables, before, strict=True):
        assert np.any(variable.numpy() != old), variable.path


def test_some_rows_are_decoded_from_their_first_codebooks(config, rng):
    trainer = trainer_of(config, quantize_from=0, codebook_dropout=0.75)
    latent = tf.constant(rng.normal(size=(400, 3, 8)).astype(np.float32))
    quantizer = trainer.codec.quantizer
    quantized, partial = trainer._quantize(latent)
    sums = []
    for count in range(1, 1 + config.num_quantizers):
        sums.append(quantizer(latent, num_codebooks=count)[0].numpy())
    np.testing.assert_allclose(quantized, sums[-1], atol=1e-5)
    errors = np.abs(np.array(sums) - partial.numpy()).max(axis=(2, 3))  # (K, B)
    assert np.all(errors.min(axis=0) < 1e-5)
    shares = np.bincount(errors.argmin(axis=0), minlength=len(sums)) / 400
    expected = np.full(len(sums), 0.75 / len(sums))
    expected[-1] += 0.25
    np.testing.assert_allclose(shares, expected, atol=0.08)
    assert np.any(trainer._quantize(latent)[1].numpy() != partial.numpy())


def test_a_new_codec_preserves_the_level(config, rng):
    """A codec that starts quiet stays stuck at an error of 1."""
    keras.utils.set_random_seed(1)
    audio = rng.normal(0, LEVEL, (4, 1600)).astype(np.float32)

    def level_of(codec):
        latent = codec.encoder(audio[..., None])
        return np.std(latent), np.std(codec.decoder(latent)) / LEVEL

    codec = EncodecModel(config)
    before = level_of(codec)
    start_at_level(codec, LEVEL)
    latent, decoded = level_of(codec)
    assert before[0] < 0.2 < 0.3 < latent < 3
    assert 0.2 < decoded < 3


def test_codebooks_start_and_freeze_at_the_asked_steps(config, batch):
    options = {"quantize_from": 3, "freeze_encoder_from": 4, "kmeans_latents": 1200}
    trainer = trainer_of(config, **options)
    run_eagerly(trainer)
    batch = {"audio": batch["audio"][:, :800]}
    first = trainer.codec.quantizer.codebooks[0]
    before = first.embed.numpy()
    run(trainer, batch, 2)
    np.testing.assert_array_equal(first.embed.numpy(), before)
    run(trainer, batch, 1)
    assert np.abs(first.embed.numpy() - before).min(axis=1).max() > 0
    np.testing.assert_allclose(
        first.embed_avg.numpy(),
        first.embed.numpy() * first.cluster_size.numpy()[:, None],
        rtol=1e-5,
    )
    # Counts are those of one step: 4 rows of 100 frames.
    assert first.cluster_size.numpy().sum() == pytest.approx(400, rel=1e-4)
    started = first.embed.numpy()
    run(trainer, batch, 1)
    assert np.any(first.embed.numpy() != started)
    codes = trainer.codec.encode(batch["audio"], bandwidth=12.0).numpy()
    decoder = trainer.codec.decoder.output_conv.direction.numpy()
    run(trainer, batch, 1)
    again = trainer.codec.encode(batch["audio"], bandwidth=12.0).numpy()
    np.testing.assert_array_equal(again, codes)
    assert np.any(trainer.codec.decoder.output_conv.direction.numpy() != decoder)


@pytest.mark.slow
def test_a_decoder_learns_alone(config, batch):
    trainer = trainer_of(config, quantize_from=0, freeze_encoder_from=0)
    codec, encoder = trainer.codec, trainer.codec.encoder.trainable_variables
    before = [variable.numpy() for variable in encoder]
    codes = codec.encode(batch["audio"], bandwidth=12.0).numpy()
    history = run(trainer, batch, 4)
    assert history["mel"][-1] < history["mel"][0]
    for variable, kept in zip(encoder, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), kept)
    again = codec.encode(batch["audio"], bandwidth=12.0).numpy()
    np.testing.assert_array_equal(again, codes)
    # The optimizer has no state for frozen variables; the decoder's gain is another.
    learning = len(codec.trainable_variables) - len(encoder) - 1
    assert len(trainer.optimizer._trainable_variables) == learning


@pytest.mark.slow
@pytest.mark.parametrize("frozen_from", [None, 0])
def test_averages_go_to_the_variables_that_learn(config, batch, frozen_from):
    trainer = trainer_of(config, freeze_encoder_from=frozen_from)
    # An average that forgets everything is the last value, so nothing may change.
    how = {"use_ema": True, "ema_momentum": 0.0}
    trainer.compile(optimizer=keras.optimizers.Adam(3e-3, **how))
    trainer.train_on_batch(batch)
    variables = trainer.codec.weights
    before = [variable.numpy() for variable in variables]
    trainer.optimizer.finalize_variable_values(trainer.trainable_weights)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, variable.path)


def test_entries_follow_the_latents_assigned_to_them(config, rng):
    """Against one step by hand: decay * old + (1 - decay) * new, without revival."""
    trainer = trainer_of(config, quantize_from=0, revive_below=0.0)
    book = trainer.codec.quantizer.codebooks[0]
    entries = rng.normal(size=(16, 8)).astype(np.float32)
    book.embed.assign(entries)
    book.embed_avg.assign(entries * 2)
    book.cluster_size.assign(np.full(16, 2.0))
    rows = rng.normal(size=(64, 8)).astype(np.float32)
    codes = np.argmin(((rows[:, None] - entries) ** 2).sum(-1), 1)
    trainer._move_one(book, tf.constant(rows), tf.constant(codes, tf.int32), [0, 0])
    counts = np.full(16, 2.0)
    sums = entries * 2
    decay = trainer.options.codebook_decay
    for entry in range(16):
        chosen = rows[codes == entry]
        counts[entry] = decay * 2 + (1 - decay) * len(chosen)
        sums[entry] = decay * entries[entry] * 2 + (1 - decay) * chosen.sum(0)
    np.testing.assert_allclose(book.cluster_size.numpy(), counts, rtol=1e-5)
    np.testing.assert_allclose(book.embed.numpy(), sums / counts[:, None], rtol=1e-4)


def test_unused_entries_are_replaced_by_latents(config, rng):
    trainer = trainer_of(config, quantize_from=0, revive_below=0.1)
    book = trainer.codec.quantizer.codebooks[0]
    book.embed.assign(np.full((16, 8), 100.0))
    book.cluster_size.assign(np.zeros(16))
    book.embed_avg.assign(np.zeros((16, 8)))
    rows = rng.normal(size=(64, 8)).astype(np.float32)
    trainer._move_one(
        book, tf.constant(rows), tf.zeros(64, tf.int32), tf.constant([1, 2])
    )
    revived = book.embed.numpy()[1:]
    distances = np.abs(revived[:, None] - rows).sum(-1).min(1)
    np.testing.assert_array_equal(distances, 0)
    np.testing.assert_array_equal(book.cluster_size.numpy()[1:], 4.0)  # 64 / 16


@pytest.mark.slow
def test_a_discriminator_learns_beside_the_codec(config, batch):
    judge = Discriminator(windows=(256, 128), width=4)
    trainer = trainer_of(config, judge, quantize_from=0)
    before = [w.numpy() for w in judge.trainable_variables]
    history = run(trainer, batch, 10)
    assert history["discriminator"][-1] < history["discriminator"][0]
    for new, old in zip(judge.trainable_variables, before, strict=True):
        # The hinge losses of real and fake cancel in the last bias.
        assert new.path.endswith("output_conv/bias") or np.any(new.numpy() != old)
    assert len(trainer.optimizers) == 2


def test_a_recogniser_judges_what_is_said(config, batch):
    sizes = {"num_mels": 10, "hidden_size": 8, "num_layers": 2, "num_heads": 2}
    network = toy.randomize(CtcModel(CtcConfig(**sizes)), stddev=0.3)
    centres = np.zeros((3, 8), np.float32)
    tokenizer = CtcTokenizer(network, centres, rate_hz=50.0)
    with pytest.raises(ValueError, match=r"sample rate, 16000\. Received: 8000"):
        trainer_of(config, tokenizer=tokenizer)
    config = config.replace(sampling_rate=16_000)
    before = network.get_weights()
    weights = {"mel": 0.0, "waveform": 0.0, "recogniser": 1.0}
    trainer = trainer_of(config, tokenizer=tokenizer, weights=weights)
    history = run(trainer, batch, 30)
    assert history["loss"] == history["recogniser"]
    assert np.mean(history["recogniser"][-5:]) < 0.9 * history["recogniser"][0]
    for weight, old in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    distance = RecogniserDistance(tokenizer)
    assert float(distance(batch["audio"], batch["audio"])) == 0
    assert float(distance(batch["audio"], 0.5 * batch["audio"])) > 0


def test_kmeans_finds_separate_groups(rng):
    centres = np.eye(4, dtype=np.float32) * 50
    rows = np.repeat(centres, 30, axis=0) + rng.normal(size=(120, 4)).astype("f")
    found, counts = kmeans(tf.constant(rows), 12, tf.constant([0, 3]))
    nearest = np.abs(found.numpy()[:, None] - centres).sum(-1).argmin(1)
    assert set(nearest) == {0, 1, 2, 3}
    assert counts.numpy().sum() == 120


def test_the_level_is_the_root_mean_square():
    assert audio_level([np.full(4, 0.5), np.full(8, -0.5)]) == pytest.approx(0.5)


def test_batches_are_functions_of_seed_and_step(rng):
    audios = [rng.normal(0, 0.1, n).astype(np.float32) for n in (5, 50, 500)]
    batches = AudioBatches(audios, 40, 3, seed=1)
    one, same = batches(7)["audio"], AudioBatches(audios, 40, 3, seed=1)(7)["audio"]
    np.testing.assert_array_equal(one, same)
    assert np.any(one != batches(8)["audio"])
    assert np.any(one != AudioBatches(audios, 40, 3, seed=2)(7)["audio"])
    streamed = list(batches.dataset(start=7, steps=2).as_numpy_iterator())
    np.testing.assert_array_equal(streamed[0]["audio"], one)
    np.testing.assert_array_equal(streamed[1]["audio"], batches(8)["audio"])


def test_crops_come_from_the_recordings():
    audios = [np.full(100, 0.25, np.float32), np.full(10, 0.5, np.float32)]
    batches = AudioBatches(audios, 20, 8, weights=[1, 3], gain_db=0.0)
    rows = np.concatenate([batches(step)["audio"] for step in range(50)])
    is_short = rows[:, 0] == 0.5
    assert 0.65 < is_short.mean() < 0.85
    np.testing.assert_array_equal(rows[is_short][:, 10:], 0)
    np.testing.assert_array_equal(rows[~is_short], 0.25)


@pytest.mark.parametrize("wrong", [{"segment": 0}, {"batch_size": 0}, {"audios": []}])
def test_batches_of_nothing_are_refused(wrong):
    right = {"audios": [np.zeros(8)], "segment": 4, "batch_size": 1}
    with pytest.raises(ValueError, match="Received"):
        AudioBatches(**{**right, **wrong})
