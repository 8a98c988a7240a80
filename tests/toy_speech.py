"""A toy Bark that trains in seconds, and speech for it."""

import shutil
import subprocess
import wave

import numpy as np

from bark_tf.cli.main import main
from bark_tf.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
)
from bark_tf.text.tokenizer import BarkTokenizer

RATE = 8_000
WORDS = "zero one two three four five six seven eight nine".split()
TEXTS = [
    f"{a} {b} {c}"
    for a, b, c in zip(WORDS, WORDS[3:] + WORDS, WORDS[::-1], strict=False)
]
SMALL = {"num_layers": 1, "num_heads": 2, "hidden_size": 16, "bias": False}


def start():
    """A toy Bark: 8 kHz, 50 Hz, 20 semantic tokens, 4 codebooks of 16."""
    config = BarkConfig(
        semantic_config=BarkSemanticConfig(
            input_vocab_size=40, output_vocab_size=21, block_size=216, **SMALL
        ),
        coarse_acoustics_config=BarkCoarseConfig(
            input_vocab_size=54, output_vocab_size=54, block_size=512, **SMALL
        ),
        fine_acoustics_config=BarkFineConfig(
            input_vocab_size=17,
            output_vocab_size=17,
            block_size=64,
            n_codes_total=4,
            **SMALL,
        ),
        codec_config=EncodecConfig(
            sampling_rate=RATE,
            target_bandwidths=(0.8,),
            num_filters=2,
            hidden_size=8,
            upsampling_ratios=(8, 5, 4),
            num_lstm_layers=1,
            codebook_size=16,
        ),
    )
    generation_config = BarkGenerationConfig(
        semantic_config=BarkSemanticGenerationConfig(
            eos_token_id=20,
            max_new_tokens=200,
            text_encoding_offset=21,
            text_pad_token=38,
            semantic_infer_token=39,
            semantic_vocab_size=20,
            max_input_semantic_length=16,
            semantic_rate_hz=50,
        ),
        coarse_acoustics_config=BarkCoarseGenerationConfig(
            coarse_semantic_pad_token=52,
            coarse_infer_token=53,
            coarse_rate_hz=50,
            max_coarse_input_length=64,
            max_coarse_history=100,
            sliding_window_len=20,
        ),
        fine_acoustics_config=BarkFineGenerationConfig(
            max_fine_history_length=32, max_fine_input_length=64, n_fine_codebooks=4
        ),
        sample_rate=RATE,
        codebook_size=16,
    )
    return config, generation_config, tokenizer()


def tokenizer():
    return BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", *WORDS])


def say(text, path):
    """Writes speech by flite or espeak-ng, or one tone per word if both are missing."""
    if shutil.which("flite"):
        command = ["flite", "-voice", "slt", "-t", text, "-o", str(path)]
    elif shutil.which("espeak-ng"):
        command = ["espeak-ng", "-w", str(path), text]
    else:
        pitches = [200 + 90 * WORDS.index(word) for word in text.split()]
        time = np.arange(4_000) / 16_000
        tones = [np.sin(2 * np.pi * pitch * time) for pitch in pitches]
        samples = (np.concatenate(tones) * 8_000).astype("<i2").tobytes()
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples)
        return
    subprocess.run(command, check=True, capture_output=True)


def record(folder, texts=TEXTS):
    """Writes a folder in LJSpeech's format: `metadata.csv`, `r0.wav` and so on."""
    for number, text in enumerate(texts):
        say(text, folder / f"r{number}.wav")
    lines = [f"r{number}|{text}|{text}\n" for number, text in enumerate(texts)]
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8")


def write_model(folder):
    """Writes a checkpoint with random weights and without a semantic tokenizer."""
    from bark_tf import BarkModel, BarkProcessor

    config, generation_config, words = start()
    BarkModel(config, generation_config).save_pretrained(folder)
    BarkProcessor(words).save_pretrained(folder)


def hum(seconds, rate, pitch=120.0, peak=0.3, noise_db=-70.0, seed=0):
    """Syllables with pauses, close enough to speech for the sound checks.

    Args:
        seconds: Length of the result, which ends in silence.
        rate: Samples per second.
        pitch: Pitch in Hz; syllables vary by a tenth.
        peak: Largest magnitude, without the noise.
        noise_db: Level of the white noise, relative to full scale.
        seed: Random seed.

    Returns:
        float32 (samples,).
    """
    rng = np.random.default_rng(seed)
    audio, start = np.zeros(round(seconds * rate)), 0.1
    while start + 0.4 < seconds:
        length, hz = rng.uniform(0.15, 0.25), pitch * rng.uniform(0.9, 1.1)
        time = np.arange(round(length * rate)) / rate
        partials = np.arange(1, max(2, min(8, int(0.45 * rate / hz))))[:, None]
        tone = (np.sin(2 * np.pi * hz * partials * time) / partials).sum(axis=0)
        audio[round(start * rate) :][: time.size] = tone * np.hanning(time.size)
        start += length + rng.choice([0.05, 0.3], p=[0.8, 0.2])
    audio *= peak / np.abs(audio).max()
    noise = 10 ** (noise_db / 20) * rng.standard_normal(audio.size)
    return (audio + noise).astype(np.float32)


def run_step(words):
    """Runs a recipe's command; after four steps of training, a draw may be silent."""
    draws = [["--seed", str(seed)] for seed in range(20)]
    draws = draws if words[0] == "speak" else [[]]
    assert any(main([*words, *draw, "--quiet"]) == 0 for draw in draws), words
