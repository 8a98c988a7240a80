"""What the tests of the command line share: a toy model, and a fake one."""

import types
import wave

import numpy as np

from bark_tf.config import BarkConfig, BarkGenerationConfig
from bark_tf.voices.presets import VoicePreset

RATE = 24_000
SPECIAL = ["[PAD]", "[UNK]", "."]
WORDS = [f"word{i}" for i in range(197)]
VOICES = ("v2/en_speaker_1", "v2/en_speaker_2", "announcer")
TEXT = "word1 word2 word3"


def voice(num_tokens=20):
    frames = num_tokens * 3 // 2
    return VoicePreset(
        np.arange(num_tokens), np.ones((2, frames), int), np.ones((8, frames), int)
    )


def generation_config():
    """It draws, for 0.2 seconds."""
    return BarkGenerationConfig(
        semantic_config={"do_sample": True, "max_new_tokens": 10},
        coarse_acoustics_config={"do_sample": True},
        fine_acoustics_config={
            "temperature": 0.5,
            "max_fine_input_length": 64,
            "max_fine_history_length": 32,
        },
    )


def tiny_config():
    tiny = BarkConfig.preset("tiny")
    parts = ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    return tiny.replace(**{n: getattr(tiny, n).replace(num_layers=1) for n in parts})


class FakeModel:
    """Says noise, as long as the words would take, and remembers how it was asked."""

    generation_config = generation_config().replace(semantic_config=None)
    sampling_rate = RATE

    def __init__(self):
        self.calls, self.error, self.word_s, self.peak = [], None, 0.4, 0.5
        self.num_params = 10**9

    def count_params(self):
        return self.num_params

    def generate(self, **options):
        self.calls.append(options)
        if self.error is not None:
            raise self.error
        num_samples = round(options["attention_mask"].sum() * self.word_s * RATE)
        noise = np.random.default_rng(len(self.calls)).uniform(-1, 1, num_samples)
        noise *= self.peak
        codes = np.arange(50) % 1000
        return types.SimpleNamespace(
            audio=noise[None].astype(np.float32),
            lengths=[num_samples],
            semantic=np.append(codes, 10_000)[None],
            coarse=np.stack([codes, codes])[None],
            voice=voice(50),
        )

    def stream(self, latency, **options):
        audio = self.generate(**options).audio[0]
        self.calls[-1]["latency"] = latency
        return iter(np.split(audio, 4)) if audio.size else iter(())

    @property
    def options(self):
        (call,) = self.calls
        own = ("input_ids", "attention_mask", "progress", "return_dict", "jit_compile")
        return {name: value for name, value in call.items() if name not in own}


def read_wav(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        assert file.getframerate() == RATE
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def only_line(capsys):
    """The one line on standard error; nothing is on standard output."""
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err.count("\n") == 1, err
    return err.removesuffix("\n")
