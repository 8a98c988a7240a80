"""Toy models, weights and comparisons that many tests share."""

import functools

import numpy as np

from bark_tf import tokens
from bark_tf.config import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    EncodecConfig,
    HubertConfig,
)
from bark_tf.voices.presets import VoicePreset

SIZES = {
    "block_size": 48,
    "input_vocab_size": 40,
    "output_vocab_size": 30,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_size": 16,
}


def semantic_config(**changes):
    return BarkSemanticConfig(**{**SIZES, **changes})


def coarse_config(**changes):
    return BarkCoarseConfig(**{**SIZES, **changes})


def fine_config(**changes):
    sizes = {**SIZES, "input_vocab_size": 30, "n_codes_total": 4}
    return BarkFineConfig(**{**sizes, **changes})


def codec_config(**changes):
    """Four codebooks of 16, 8 samples per frame."""
    sizes = {
        "num_filters": 4,
        "hidden_size": 8,
        "upsampling_ratios": (4, 2),
        "codebook_size": 16,
        "target_bandwidths": (12.0, 24.0, 48.0),
    }
    return EncodecConfig(**{**sizes, **changes})


def hubert_config(**changes):
    """Base's convolutions, so frames have their real length and position."""
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 8,
        "conv_dim": (4,) * 7,
        "num_conv_pos_embeddings": 9,
        "num_conv_pos_embedding_groups": 4,
    }
    return HubertConfig(**{**sizes, **changes})


def ids(*shape, high=30, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.int32)


def randomize(model, stddev=0.5, seed=0):
    """Assigns weights large enough that logits have no ties, which hide mistakes."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        mean = 1.0 if variable.path.endswith("gamma") else 0.0
        spread = 0.1 if "norm" in variable.path else stddev
        variable.assign(rng.normal(mean, spread, variable.shape))
    return model


def largest_difference(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max()) if a.size else 0.0


# === Texts and voices of Bark's real size ===


def bark_text(seed):
    """BERT ids (256,) and mask of a text of random length."""
    rng = np.random.default_rng(seed)
    ids, mask = np.zeros(256, np.int64), np.zeros(256, np.int64)
    length = rng.integers(1, 257)
    ids[:length] = rng.integers(1, tokens.BERT_VOCAB_SIZE, length)
    mask[:length] = 1
    return ids, mask


def bark_voice(num_semantic):
    """A voice of `num_semantic` semantic tokens, or None for 0."""
    if not num_semantic:
        return None
    rng = np.random.default_rng(0)
    num_frames = int(num_semantic * tokens.COARSE_RATE_HZ / tokens.SEMANTIC_RATE_HZ)
    fine = rng.integers(0, tokens.CODEBOOK_SIZE, (8, num_frames))
    semantic = rng.integers(0, tokens.SEMANTIC_VOCAB_SIZE, num_semantic)
    return VoicePreset(semantic, fine[:2], fine)


# === A whole Bark of toy size ===

# Semantic tokens 0-19, end 22, text ids 26-35, pad 36, infer 38. Coarse: semantic
# tokens, codebooks of 8 codes from 20 and from 28 on, pad 36, infer 38.
TEXT_VOCABULARY = 10
EOS = 22
PROMPT = 8
SAMPLES_PER_FRAME = 4


def bark_config():
    sizes = {**SIZES, "num_heads": 2, "block_size": 64, "input_vocab_size": 40}
    return BarkConfig(
        semantic_config=BarkSemanticConfig(**{**sizes, "output_vocab_size": 26}),
        coarse_acoustics_config=BarkCoarseConfig(**{**sizes, "output_vocab_size": 40}),
        fine_acoustics_config=BarkFineConfig(
            **{**sizes, "input_vocab_size": 10, "output_vocab_size": 10},
            n_codes_total=4,
        ),
        codec_config=EncodecConfig(
            num_filters=2,
            hidden_size=4,
            upsampling_ratios=(SAMPLES_PER_FRAME,),
            num_lstm_layers=1,
            codebook_size=8,
            target_bandwidths=(72.0,),
        ),
    )


def generation_config(semantic=None, coarse=None, fine=None):
    """The generation configuration of the toy Bark, with changes per stage."""
    return BarkGenerationConfig(
        semantic_config={
            "eos_token_id": EOS,
            "max_new_tokens": 7,
            "text_encoding_offset": 26,
            "text_pad_token": 36,
            "semantic_infer_token": 38,
            "semantic_vocab_size": 20,
            "max_input_semantic_length": PROMPT,
            "top_k": 0,
            **(semantic or {}),
        },
        coarse_acoustics_config={
            "coarse_semantic_pad_token": 36,
            "coarse_infer_token": 38,
            "max_coarse_input_length": PROMPT,
            "max_coarse_history": 12,
            "sliding_window_len": 6,
            "top_k": 0,
            **(coarse or {}),
        },
        fine_acoustics_config={
            "max_fine_history_length": 8,
            "max_fine_input_length": 16,
            "n_fine_codebooks": 4,
            **(fine or {}),
        },
        codebook_size=8,
    )


def bark(seed=0, dtype=None):
    """A new toy Bark with random weights."""
    from bark_tf.bark import BarkModel

    model = BarkModel(bark_config(), generation_config(), dtype=dtype)
    for i, part in enumerate(model.parts.values()):
        randomize(part, seed=10 * seed + i)
    kernel = np.array(model.semantic.lm_head.kernel)
    kernel[EOS] *= 0.5  # most rows end after 2 to 30 tokens, some never
    model.semantic.lm_head.kernel.assign(kernel)
    return model


@functools.cache
def shared_bark():
    """One toy Bark for all tests that do not change it; its programs are reused."""
    return bark()


def texts(*seeds):
    """Arguments of `generate`: one text per seed, of different lengths."""
    text = np.zeros((len(seeds), PROMPT), np.int32)
    mask = np.zeros((len(seeds), PROMPT), np.int32)
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        length = rng.integers(1, PROMPT + 1)
        text[row, :length] = rng.integers(0, TEXT_VOCABULARY, length)
        mask[row, :length] = 1
    return {"input_ids": text, "attention_mask": mask}


def voice(num_semantic=9, seed=0):
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 8, (4, int(1.5 * num_semantic)))
    return VoicePreset(rng.integers(0, 20, num_semantic), fine[:2], fine)


def count_traces(model):
    """The total number of traces of a network's generation programs."""
    functions = [
        getattr(program, name)
        for program in vars(model).get("_generation_programs", {}).values()
        for name in ("prefill", "decode", "run")
        if hasattr(program, name)
    ]
    return sum(function.experimental_get_tracing_count() for function in functions)


# === Inputs of `data/generation_golden.npz` ===

GOLDEN_MAX_NEW_TOKENS = 14
# Text seed and semantic tokens of the voice; the first row ends early.
GOLDEN_ROWS = ((0, 0), (1, 300), (2, 0), (3, 90))
GOLDEN_STAGES = ("semantic", "coarse", "fine")


def golden_tensors(stage, table):
    """The random tensors of a network, in the order of its conversion table.

    Args:
        stage: Of `GOLDEN_STAGES`.
        table: `rules.Table` of the network.

    Yields:
        (rule, float32 array as the checkpoint holds it).
    """
    rng = np.random.default_rng(GOLDEN_STAGES.index(stage))
    for rule in table.rules:
        values = rng.standard_normal(rule.convert_shape(rule.shape), np.float32)
        values *= np.float32(0.1 if "norm" in rule.ours else 0.5)
        if stage == "semantic" and rule.ours == "lm_head/kernel":
            values[tokens.SEMANTIC_PAD_TOKEN] *= 1.5  # rows end
        yield rule, values + np.float32(rule.ours.endswith("gamma"))
