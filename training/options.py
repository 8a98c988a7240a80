"""The settings of a training run, in small groups that check themselves.

Nothing here imports TensorFlow: `bark-tf train RECIPE --show` reads recipes without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

from bark_tf.config.fields import Count, Positive, Share, check_field, check_fields

# A share that is not all of it.
_Part = Annotated[float, "[0, 1)"]
_Inner = Annotated[float, "(0, 1)"]
_Steps = Annotated[int, "[0, 1_000_000_000]"]
_Weight = Annotated[float, "[0, 1_000_000_000]"]

OPTIMIZERS = ("adamw", "muon")
LOSS_WEIGHTS = {
    "mel": 1.0,
    "waveform": 0.1,
    "recogniser": 0.5,
    "commitment": 0.25,
    "level": 0.01,
    "adversarial": 0.1,
    "features": 0.2,
}


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """Length, optimizer and bookkeeping of a run.

    Args:
        steps: Number of batches.
        optimizer: `"adamw"`; or `"muon"`, which orthogonalises the updates of the
            kernels and uses AdamW for all other weights. Muon learned more per step in
            the voice that ships (docs/decisions/0011) and takes 20 % more time. Needs
            Keras 3.13.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up to the peak.
        final_share: Share of the peak at the end of the cosine decay.
        weight_decay: Of kernels and embeddings; biases and norms have none.
        beta_1: AdamW's decay of the mean gradient.
        beta_2: AdamW's decay of the mean squared gradient.
        clip_norm: Largest global norm of the gradients. None: no clipping.
        accumulate: Batches whose gradients are averaged for one update.
        ema: Momentum of the moving average of the weights, which the final model
            gets. None: no average.
        seed: Seed of new weights, of the order of examples and of dropout.
        checkpoint_every: Steps between two checkpoints.
        keep: Number of checkpoints to keep.
        validate_every: Steps between two validations, if there is held-out data.
        patience: Validations without improvement before the run stops and restores
            the best weights. None: never stops early.
        log_every: Steps between two lines of the log.
        jit_compile: Whether to compile the step with XLA; `"auto"` lets Keras decide.
            Runs on several devices are never compiled.

    Raises:
        ValueError: If a value is out of range.
    """

    steps: Count = 1_000
    optimizer: str = "adamw"
    learning_rate: Positive = 1e-4
    warmup_steps: _Steps = 100
    final_share: Share = 0.1
    weight_decay: _Weight = 0.01
    beta_1: _Part = 0.9
    beta_2: _Part = 0.99
    clip_norm: Positive | None = 1.0
    accumulate: Count = 1
    ema: _Inner | None = None
    seed: int = 0
    checkpoint_every: Count = 500
    keep: Count = 2
    validate_every: Count = 500
    patience: Count | None = None
    log_every: Count = 50
    jit_compile: bool | Literal["auto"] = False

    def __post_init__(self):
        check_fields(self)
        is_known = self.optimizer in OPTIMIZERS
        check_field(self, "optimizer", is_known, f"one of {', '.join(OPTIMIZERS)}")


@dataclasses.dataclass(frozen=True)
class ExampleOptions:
    """How recordings become examples for the three transformers.

    Args:
        history_probability: How often an example starts with another recording of its
            speaker as history. This keeps voice prompts working.
        default_speaker: The speaker the model uses without a voice prompt: examples of
            all other speakers always start with a history. None: any speaker.
        vary_text: Called with text ids, int (n,), and a `np.random.Generator`; returns
            other ids for the same speech, for example with a word spelled out.
        token_noise: How often a token in the input is replaced by a random one: a
            semantic token in the semantic stage, a code in the others. In generation
            these are a network's own, with its mistakes; so it learns to rely less on
            them, and more on the text or on the semantic tokens.
        tempo_noise: How often a part of a recording is read at another tempo, half to
            twice its own, and not learned: so that the network finds its place in the
            text by what was said, and not by how long ago it began. Semantic stage
            only.
        guided_attention: Weight of a loss that keeps one attention head in each of the
            middle layers at the part of the text that is being spoken, see
            `bark_tf.training.runs.guide`. A network from scratch finds its place in
            the text much sooner. Semantic stage only.
        past_weight: Loss weight of the past coarse tokens of a window. 0 trains
            exactly what generation asks for.

    Raises:
        ValueError: If a value is out of range.
    """

    history_probability: Share = 0.5
    default_speaker: str | None = None
    vary_text: Callable | None = None
    token_noise: _Part = 0.0
    tempo_noise: Share = 0.0
    guided_attention: _Weight = 0.0
    past_weight: Share = 0.0

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """Size and place of the LoRA adapters.

    Args:
        rank: Rank of the matrices.
        alpha: The product of the matrices is scaled by `alpha / rank`. None: by 1.
        targets: Names of the layers that get adapters.
        adapters: Adapters to go on from, with their own rank, alpha and targets: the
            folder `adapters` of another run, or a folder of PEFT's. None: new ones.

    Raises:
        ValueError: If a value is out of range.
    """

    rank: Count = 16
    alpha: Positive | None = None
    targets: tuple[str, ...] = ("qkv", "out", "fc", "proj")
    adapters: str | None = None

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class CodecOptions:
    """How the codec is trained.

    Args:
        segment_s: Seconds per training crop.
        speakers: Speaker -> how often its recordings are drawn; speakers that are not
            named are never drawn. Empty: all recordings alike.
        discriminator: Whether to train against a discriminator.
        weights: Loss -> weight; others keep the default of `LOSS_WEIGHTS`. Adversarial
            losses need the discriminator, and `recogniser` the recogniser. `level`
            holds latents that grow, see `bark_tf.training.codec.losses.level`.
        recogniser: Directory of a semantic tokenizer of kind ctc. What its network
            makes of a recording and of the reconstruction must be alike, so that words
            stay clear. None: no such loss. The codec's rate must be 16 kHz.
        quantize_from: Steps without quantizer, after which k-means on latents
            initialises the codebooks. 0: the codec has its codebooks already.
        codebook_decay: Decay of the codebooks' moving averages.
        codebook_dropout: How often a crop is decoded from its first codebooks alone,
            from one up to all of them, so that these carry more.
        revive_below: An entry used less often than this share of the mean is replaced
            by a random latent.
        freeze_encoder_from: Step from which only the decoder learns, so that codes
            stay the same. None: never.
        kmeans_latents: Number of latents for the initial k-means.

    Raises:
        ValueError: If a value is out of range.
    """

    segment_s: Positive = 1.0
    speakers: dict[str, _Weight] = dataclasses.field(default_factory=dict)
    discriminator: bool = False
    weights: dict[str, _Weight] = dataclasses.field(default_factory=dict)
    recogniser: str | None = None
    quantize_from: _Steps = 2_000
    codebook_decay: _Inner = 0.97
    codebook_dropout: Share = 0.0
    revive_below: _Part = 0.02
    freeze_encoder_from: _Steps | None = None
    kmeans_latents: Count = 16_384

    def __post_init__(self):
        check_fields(self)
        are_known = self.weights.keys() <= LOSS_WEIGHTS.keys()
        check_field(self, "weights", are_known, f"for {', '.join(LOSS_WEIGHTS)}")
        object.__setattr__(self, "weights", {**LOSS_WEIGHTS, **self.weights})
