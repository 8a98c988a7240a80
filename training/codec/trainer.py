"""Training of the codec, audio to codes to audio.

The codebooks have no gradient. K-means on latents initialises them; then every entry
follows the moving average of the latents assigned to it, and unused entries are
replaced.

Axes: B batch, S samples, T frames, D size of a latent, N entries of a codebook, R rows
of latents.

Source: Défossez et al., "High Fidelity Neural Audio Compression", section 3.
"""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import tensorflow as tf

from bark_tf.models.encodec.conv import Convolution, TransposedConvolution
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.encodec.quantizer import Codebook

from ..options import CodecOptions
from . import losses

KMEANS_ITERATIONS = 12


def start_at_level(codec: EncodecModel, level: float) -> None:
    """Scales the kernels of a new codec so that it preserves the level of signals.

    Weight norm initialises every kernel with norm 1. That preserves variance in a
    convolution, but not in a transposed one, where each output step sees only two
    taps. A codec that starts quiet stays quiet for thousands of steps.

    Args:
        codec: Codec with weight norm and random weights.
        level: Root mean square of the training audio.
    """
    first, last = codec.encoder.input_conv, codec.decoder.output_conv
    for layer in codec._flatten_layers():
        if isinstance(layer, TransposedConvolution) and layer.norm is None:
            _, channels, in_channels = layer.kernel_shape
            gain = math.sqrt(layer.stride * channels / in_channels)
            layer.scale.assign(tf.fill(layer.scale.shape, gain))
        elif isinstance(layer, Convolution) and layer.norm is None:
            gain = {first: 1 / level, last: level}.get(layer, 1.0)
            layer.scale.assign(tf.fill(layer.scale.shape, gain))


def _check_one_device() -> None:
    if tf.distribute.has_strategy():
        strategy = tf.distribute.get_strategy()
        raise ValueError(
            "A codec must be trained on one device, without a strategy: its codebooks "
            "follow the latents of whole batches. Received: "
            f"{type(strategy).__name__} of {strategy.num_replicas_in_sync} devices"
        )


def _check_rate(tokenizer, config) -> None:
    if tokenizer.sample_rate != config.sampling_rate:
        raise ValueError(
            "A codec that a recogniser judges must have the recogniser's sample rate, "
            f"{tokenizer.sample_rate}. Received: {config.sampling_rate}"
        )


class CodecTrainer(keras.Model):
    """Trains a codec from audio.

    Args:
        codec: `EncodecModel`, with float32 weights.
        options: `CodecOptions`.
        discriminator: `Discriminator`, or None to train without one.
        tokenizer: `CtcTokenizer` whose network judges what is said, or None.
        seed: Seed of all random choices.
        **kwargs: `name`.

    Call arguments:
        batch: Mapping with `audio`, float32 (B, S) in [-1, 1], S a multiple of the
            codec's `hop_length`.

    Returns:
        The reconstruction, float32 (B, S).

    Example:
        >>> config = EncodecConfig(num_filters=2, hidden_size=8)
        >>> trainer = CodecTrainer(EncodecModel(config), CodecOptions())
        >>> trainer.compile(optimizer=keras.optimizers.Adam(1e-3))
        >>> _ = trainer.train_on_batch({"audio": np.zeros((2, 3200), "float32")})
    """

    def __init__(
        self,
        codec,
        options=None,
        discriminator=None,
        *,
        tokenizer=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_one_device()
        self.codec = codec
        self.options = options or CodecOptions()
        self.discriminator = discriminator
        self.discriminator_optimizer = None
        config = codec.config
        self._mel = losses.MultiScaleMel(config.sampling_rate)
        self._recogniser = None
        if tokenizer is not None:
            _check_rate(tokenizer, config)
            self._recogniser = losses.RecogniserDistance(tokenizer)
        self._seeds = keras.random.SeedGenerator(seed)
        self.step = self.add_weight(
            (), "zeros", dtype="int32", trainable=False, name="step"
        )
        self.latents = self.add_weight(
            (self.options.kmeans_latents, config.hidden_size),
            "zeros",
            trainable=False,
            name="latents",
        )
        names = ["loss", "mel", "waveform", "commitment", "level", "entries_used"]
        if tokenizer is not None:
            names.append("recogniser")
        if discriminator is not None:
            names += ["adversarial", "features", "discriminator"]
        self._means = {name: keras.metrics.Mean(name) for name in names}
        self.built = True

    # === Keras ===

    def compile(self, optimizer="adam", discriminator_optimizer=None, **kwargs):
        """Sets the optimizers; see `keras.Model.compile`.

        Args:
            optimizer: Of the codec.
            discriminator_optimizer: Of the discriminator. None: one with the same
                settings as `optimizer`.
            **kwargs: Passed to `keras.Model.compile`.
        """
        kwargs.setdefault("jit_compile", False)  # XLA is slower here
        super().compile(optimizer=optimizer, **kwargs)
        self.optimizer.build(self.trainable_variables)
        if self.discriminator is not None:
            if discriminator_optimizer is None:
                settings = self.optimizer.get_config()
                discriminator_optimizer = type(self.optimizer).from_config(settings)
            self.discriminator_optimizer = discriminator_optimizer
            discriminator_optimizer.build(self.discriminator.trainable_variables)

    @property
    def trainable_variables(self) -> list:
        """The codec's variables that learn.

        The gain of all audio does not: the last convolution has a single scale. Its
        gradient grows as it shrinks, and so does what a step of the optimizer changes.
        Nor does the encoder if it is frozen from the start.
        """
        last = self.codec.decoder.output_conv
        frozen = [last.scale] if last.norm is None else []
        if self.options.freeze_encoder_from == 0:
            frozen += self.codec.encoder.trainable_variables
        paths = {variable.path for variable in frozen}
        return [v for v in self.codec.trainable_variables if v.path not in paths]

    @property
    def trainable_weights(self) -> list:
        """The same, under the name by which `fit` writes averages back."""
        return self.trainable_variables

    @property
    def optimizers(self) -> list:
        """All optimizers; `checkpoints.save` writes their variables."""
        others = [self.discriminator_optimizer] if self.discriminator_optimizer else []
        return [self.optimizer, *others]

    def call(self, batch, training=False):
        """Encodes, quantizes and decodes."""
        bandwidth = self.codec.config.target_bandwidths[-1]
        return self.codec(batch["audio"], bandwidth=bandwidth)

    def train_step(self, data):
        """One step of all parts; see `keras.Model.train_step`."""
        _check_one_device()
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        audio = batch["audio"]
        with tf.GradientTape(persistent=self.discriminator is not None) as tape:
            latent = self.codec.encoder(audio[..., None])
            latent = tf.cast(latent, tf.float32)  # (B, T, D)
            quantized, partial = self._quantize(latent)
            estimate = self.codec.decode_latent(partial)
            parts = self._reconstruction(audio, estimate)
            parts["commitment"] = self._commitment(latent, quantized)
            parts["level"] = losses.level(latent)
            if self.discriminator is not None:
                parts |= self._judge(audio, estimate)
            weights = self.options.weights
            loss = tf.add_n(
                [
                    weights[name] * part
                    for name, part in parts.items()
                    if name in weights
                ]
            )
        self._learn(tape, loss, parts.get("discriminator"))
        self._follow(latent)
        self.step.assign_add(1)
        shown = {"loss": loss, **parts, "entries_used": self._entries_used()}
        return self._updated(shown)

    def test_step(self, data):
        """The losses with quantization, as in inference."""
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        audio = batch["audio"]
        parts = self._reconstruction(audio, self(batch))
        weights = self.options.weights
        loss = tf.add_n([weights[name] * part for name, part in parts.items()])
        return self._updated({"loss": loss, **parts})

    def _updated(self, values):
        for name, value in values.items():
            self._means[name].update_state(value)
        return {name: self._means[name].result() for name in values}

    @property
    def metrics(self):
        """The means that Keras resets between epochs."""
        return list(self._means.values())

    # === Losses ===

    @property
    def is_quantizing(self) -> tf.Tensor:
        """Whether this step quantizes; bool ()."""
        return self.step > self.options.quantize_from - 1

    def _quantize(self, latent):
        """Quantizes latents; gradients pass straight through.

        Returns:
            The latents by all codebooks, and by those that `codebook_dropout` leaves a
            row: both (B, T, D).
        """
        quantized, codes = self.codec.quantizer(
            latent, num_codebooks=self.codec.config.num_quantizers
        )
        partial = quantized
        if self.options.codebook_dropout:
            partial = self._without_some(codes)

        def passed_through(entries):
            step = tf.stop_gradient(entries - latent)
            return latent + tf.where(self.is_quantizing, step, 0.0)

        return passed_through(quantized), passed_through(partial)

    def _without_some(self, codes):
        """Sums the entries of a row's first codebooks: codes (B, K, T) to (B, T, D)."""
        batch, count = tf.shape(codes)[0], len(self._codebooks)
        seed = tf.cast(self._seeds.next(), tf.int32)
        drops, share = tf.unstack(tf.random.stateless_uniform([2, batch], seed))
        some = 1 + tf.cast(share * count, tf.int32)  # in [1, K]
        kept = tf.where(drops < self.options.codebook_dropout, some, count)  # (B,)
        return tf.add_n(
            [
                codebook.lookup(codes[:, index])
                * tf.cast(index < kept, tf.float32)[:, None, None]
                for index, codebook in enumerate(self._codebooks)
            ]
        )

    def _reconstruction(self, audio, estimate):
        waveform = losses.waveform_error(
            losses.pre_emphasised(audio), losses.pre_emphasised(estimate)
        )
        parts = {"mel": self._mel(audio, estimate), "waveform": waveform}
        if self._recogniser is not None:
            parts["recogniser"] = self._recogniser(audio, estimate)
        return parts

    def _commitment(self, latent, quantized):
        distance = losses.commitment(latent, quantized)
        return tf.where(self.is_quantizing, distance, 0.0)

    def _judge(self, audio, estimate):
        real, real_features = self.discriminator(audio)
        fake, fake_features = self.discriminator(estimate)
        seen, _ = self.discriminator(tf.stop_gradient(estimate))
        return {
            "adversarial": losses.adversarial_loss(fake),
            "features": losses.feature_distance(real_features, fake_features),
            "discriminator": losses.discriminator_loss(real, seen),
        }

    def _learn(self, tape, loss, discriminator_loss):
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        encoder = self.codec.encoder.trainable_variables
        if not self.options.freeze_encoder_from:  # it learns always, or never
            encoder = []
        before = [tf.identity(variable) for variable in encoder]
        self.optimizer.apply(gradients, variables)
        # Momentum and weight decay move even variables without a gradient.
        learns = self.step < (self.options.freeze_encoder_from or 0)
        for variable, frozen in zip(encoder, before, strict=True):
            variable.assign(tf.where(learns, tf.identity(variable), frozen))
        if discriminator_loss is not None:
            variables = self.discriminator.trainable_variables
            gradients = tape.gradient(discriminator_loss, variables)
            self.discriminator_optimizer.apply(gradients, variables)

    # === Codebooks ===

    def _follow(self, latent):
        """Updates the codebooks from the latents of this step, or initialises them."""
        rows = tf.reshape(tf.stop_gradient(latent), [-1, latent.shape[-1]])  # (R, D)
        start, step = self.options.quantize_from, tf.convert_to_tensor(self.step)
        seed = tf.cast(self._seeds.next(), tf.int32)

        moves = step >= start
        if self.options.freeze_encoder_from is not None:
            moves &= step < self.options.freeze_encoder_from
        _run_if(step < start, self._collect, rows)
        _run_if(step == start - 1, self._start, rows, seed)
        _run_if(moves, self._move, rows, seed)

    def _collect(self, rows):
        """Stores latents in place of the oldest ones."""
        count = tf.shape(rows)[0]
        places = tf.range(count) + self.step * count
        places = places % self.options.kmeans_latents
        self.latents.assign(
            tf.tensor_scatter_nd_update(self.latents, places[:, None], rows)
        )

    def _start(self, rows, seed):
        """Initialises each codebook by k-means on the residual of the ones before."""
        residual = tf.convert_to_tensor(self.latents)
        share = tf.cast(tf.shape(rows)[0], tf.float32) / self.options.kmeans_latents
        for number, codebook in enumerate(self._codebooks):
            centres, counts = kmeans(residual, codebook.size, seed + number)
            codebook.embed.assign(centres)
            _set_averages(codebook, centres, counts * share)
            residual -= codebook.lookup(codebook.nearest(residual[None]))[0]

    def _move(self, rows, seed):
        """Updates every codebook and replaces its unused entries."""
        residual = rows
        for number, codebook in enumerate(self._codebooks):
            codes = codebook.nearest(residual[None])[0]
            entries = codebook.lookup(codes)
            self._move_one(codebook, residual, codes, seed + number)
            residual -= entries

    def _move_one(self, codebook: Codebook, rows, codes, seed):
        decay = self.options.codebook_decay
        counts = tf.math.unsorted_segment_sum(
            tf.ones_like(codes, tf.float32), codes, codebook.size
        )
        sums = tf.math.unsorted_segment_sum(rows, codes, codebook.size)
        counts = decay * codebook.cluster_size + (1 - decay) * counts
        sums = decay * codebook.embed_avg + (1 - decay) * sums
        even = tf.cast(tf.shape(rows)[0], tf.float32) / codebook.size
        dead = counts < self.options.revive_below * even  # (N,)
        picked = tf.random.stateless_uniform(
            [codebook.size], seed, maxval=tf.shape(rows)[0], dtype=tf.int32
        )
        entries = tf.where(
            dead[:, None],
            tf.gather(rows, picked),
            sums / tf.maximum(counts, 1e-9)[:, None],
        )
        codebook.embed.assign(entries)
        _set_averages(codebook, entries, tf.where(dead, even, counts))

    @property
    def _codebooks(self):
        return self.codec.quantizer.codebooks

    def _entries_used(self):
        """Share of the last codebook's entries that are in use."""
        counts = tf.convert_to_tensor(self._codebooks[-1].cluster_size)
        return tf.reduce_mean(tf.cast(counts > tf.reduce_mean(counts) / 10, tf.float32))


def _run_if(condition, function, *args) -> None:
    """Runs a function for its side effects if a tensor is true."""

    def run():
        function(*args)
        return tf.constant(0)

    tf.cond(condition, run, lambda: tf.constant(0))


def _set_averages(codebook: Codebook, entries, counts):
    codebook.cluster_size.assign(counts)
    codebook.embed_avg.assign(entries * counts[:, None])


def kmeans(rows, num_centres: int, seed):
    """K-means in a graph.

    Args:
        rows: float32 (R, D).
        num_centres: Number of centres, N.
        seed: int32 (2,), decides which rows the centres start from.

    Returns:
        The centres, float32 (N, D); and the number of rows of each, float32 (N,).
    """
    count = tf.shape(rows)[0]
    order = tf.argsort(tf.random.stateless_uniform([count], seed))
    # With fewer rows than centres, rows repeat.
    centres = tf.gather(rows, tf.gather(order, tf.range(num_centres) % count))

    def members(centres):
        norms = tf.reduce_sum(centres**2, axis=-1)
        nearest = tf.argmin(norms - 2 * tf.matmul(rows, centres, transpose_b=True), -1)
        ones = tf.ones([count])
        return nearest, tf.math.unsorted_segment_sum(ones, nearest, num_centres)

    for _ in range(KMEANS_ITERATIONS):
        nearest, counts = members(centres)
        sums = tf.math.unsorted_segment_sum(rows, nearest, num_centres)
        mean = sums / tf.maximum(counts, 1)[:, None]
        centres = tf.where(counts[:, None] > 0, mean, centres)
    return centres, members(centres)[1]


class AudioBatches:
    """Random crops of recordings; batch n is a function of the seed and n alone.

    Recordings are drawn by weight, whatever their length. Silence pads those that are
    shorter than a crop.

    Args:
        audios: Sequence of float32 (samples,), such as `ShardSet.audios`.
        segment: Samples per crop.
        batch_size: Crops per batch.
        seed: Seed of all random choices.
        weights: How often each recording is drawn, (recordings,). None: all alike.
        gain_db: Largest random gain of a crop, up or down.

    Raises:
        ValueError: If there are no recordings, or a number is not positive.

    Example:
        >>> batches = AudioBatches([np.ones(100, "float32")], segment=8, batch_size=2)
        >>> batches(0)["audio"].shape
        (2, 8)
    """

    def __init__(
        self,
        audios,
        segment: int,
        batch_size: int,
        *,
        seed: int = 0,
        weights=None,
        gain_db: float = 3.0,
    ):
        if not len(audios):
            raise ValueError("There must be recordings to train on. Received: none")
        if segment < 1 or batch_size < 1:
            raise ValueError(
                "segment and batch_size must be positive. "
                f"Received: segment={segment}, batch_size={batch_size}"
            )
        self.audios, self.segment, self.batch_size = audios, segment, batch_size
        self.seed, self.gain_db = seed, gain_db
        weights = np.ones(len(audios)) if weights is None else np.asarray(weights)
        self._ends = np.cumsum(weights, dtype=np.float64) / np.sum(weights)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which as many crops are drawn as there are recordings."""
        return max(1, len(self.audios) // self.batch_size)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step: `audio`, float32 (batch_size, segment)."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        batch = np.zeros((self.batch_size, self.segment), np.float32)
        for row in batch:
            audio = self.audios[int(np.searchsorted(self._ends, rng.random()))]
            start = rng.integers(max(1, len(audio) - self.segment + 1))
            gain = 10 ** (rng.uniform(-self.gain_db, self.gain_db) / 20)
            crop = audio[start : start + self.segment]
            row[: len(crop)] = crop * gain
        return {"audio": np.clip(batch, -1, 1)}

    def dataset(self, start: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """The batches from step `start` on, prefetched; endless without `steps`."""
        spec = tf.TensorSpec((self.batch_size, self.segment), tf.float32)

        def batches():
            numbers = itertools.count(start)
            return map(self, itertools.islice(numbers, steps))

        dataset = tf.data.Dataset.from_generator(
            batches, output_signature={"audio": spec}
        )
        return dataset.prefetch(tf.data.AUTOTUNE)


def audio_level(audios) -> float:
    """Root mean square of some recordings, for `start_at_level`."""
    power = [np.square(audio, dtype=np.float64).mean() for audio in audios]
    return float(np.sqrt(np.mean(power)))
