"""Recordings that are known in closed form, and files that are not recordings.

`bark_tf.audio.reading` and `bark_tf.training.data.audio` read and refuse the same.
"""

import io
import struct
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

RATE = 24_000
PEAK = 0.5
DURATION_S = 0.8
# What `dataset_audio` promises, of a peak of 1, up to this share of a sample rate.
TOLERANCE = 1e-3 * PEAK
BAND = 0.4


# === Sounds ===


def chirp(sample_rate, highest_hz, duration_s=DURATION_S):
    """From 100 Hz up to a frequency, with soft ends; exact at any rate."""
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    phase = 2 * np.pi * (100 * time + (highest_hz - 100) * time**2 / (2 * duration_s))
    return PEAK * np.sin(np.pi * time / duration_s) ** 2 * np.sin(phase)


def tone(sample_rate=RATE, duration_s=DURATION_S, peak=PEAK):
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    return peak * np.sin(2 * np.pi * 440 * time)


# === Files ===


def encode(samples, sample_rate=RATE, kind="WAV", subtype="PCM_16"):
    """The bytes of a file of a format and encoding."""
    data = io.BytesIO()
    soundfile.write(data, samples, sample_rate, format=kind, subtype=subtype)
    return data.getvalue()


def wav(data, size=None, between=b"", sample_rate=RATE):
    """The bytes of a 16-bit mono WAV file that claims a size."""
    form = (1, 1, sample_rate, sample_rate * 2, 2, 16)
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, *form) + between
    size = len(data) if size is None else size
    body = b"WAVE" + chunks + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(len(body), 2**32 - 1)) + body


def pcm16(samples):
    return np.round(samples * 2**15).astype("<i2").tobytes()


def contained(muxer, codec, sample_rate=RATE, layout="mono", duration_s=1.0):
    """The bytes of a chirp in a container, by FFmpeg's muxer and encoder."""
    av = pytest.importorskip("av", reason="PyAV is not installed: the extra `dev`")
    data = io.BytesIO()
    samples = chirp(sample_rate, 5_000, duration_s).astype(np.float32)
    with av.open(data, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        frame.sample_rate = sample_rate
        kind = stream.codec_context.codec.audio_formats[0]
        resampler = av.AudioResampler(kind, layout, sample_rate, 1_024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return data.getvalue()


def put(folder, data):
    """Writes a file; its name does not tell its format."""
    path = folder / "recording"
    path.write_bytes(data)
    return path


# === Recordings ===


class Recording(NamedTuple):
    """A file, and what reading it must give at `RATE`."""

    data: bytes
    expected: np.ndarray
    tolerance: float
    inner: slice = slice(None)  # lossy codecs smear the hard edges

    def check(self, found):
        assert found.dtype == np.float32 and found.shape == self.expected.shape
        np.testing.assert_allclose(
            found[self.inner], self.expected[self.inner], rtol=0, atol=self.tolerance
        )


def resampled(sample_rate, highest_hz):
    data = encode(chirp(sample_rate, highest_hz), sample_rate, subtype="FLOAT")
    return Recording(data, chirp(RATE, highest_hz), TOLERANCE)


def encoded(kind, subtype, tolerance):
    stereo = np.stack([tone(), 0.5 * tone()], axis=1)
    data = encode(stereo, kind=kind, subtype=subtype)
    return Recording(data, 0.75 * tone(), tolerance, slice(2_000, -2_000))


def with_hum():
    """14 kHz, which would fold back to 10 kHz."""
    time = np.arange(48_000) / 48_000
    hum = PEAK * np.sin(2 * np.pi * 14_000 * time) * np.hanning(time.size)
    data = encode(chirp(48_000, 3_000, 1) + hum, 48_000, subtype="FLOAT")
    return Recording(data, chirp(RATE, 3_000, 1), TOLERANCE)


def exact(**options):
    return Recording(wav(pcm16(tone()), **options), tone(), 1 / 2**15)


ENCODINGS = {
    ("WAV", "PCM_U8"): 1 / 2**7,
    ("WAV", "PCM_16"): 1 / 2**15,
    ("WAV", "PCM_24"): 1 / 2**20,
    ("WAV", "PCM_32"): 1 / 2**20,
    ("WAV", "FLOAT"): 1 / 2**20,
    ("WAV", "DOUBLE"): 1 / 2**20,
    ("WAVEX", "PCM_16"): 1 / 2**15,
    ("FLAC", "PCM_S8"): 1 / 2**7,
    ("FLAC", "PCM_16"): 1 / 2**15,
    ("FLAC", "PCM_24"): 1 / 2**20,
    ("OGG", "VORBIS"): 0.03,
    ("OGG", "OPUS"): 0.03,
    ("MP3", "MPEG_LAYER_III"): 0.03,
}
# tensorflow-io decodes nothing after a chunk of odd size.
CHUNKS = {
    "odd": b"LIST" + struct.pack("<I", 5) + b"INFOx\0",
    "even": b"JUNK" + b"\0" * 4,
}
# tensorflow-io aborts the process over the size of a stream.
STREAM_SIZES = (0xFFFF_FFFF, 0xFFFF_FFF0, 0x7FFF_F000)

# Name -> a function that makes the `Recording`.
RECORDINGS = {
    **{
        f"{rate} Hz": partial(resampled, rate, BAND * min(rate, RATE))
        for rate in (8_000, 16_000, 22_050, 24_000, 48_000, 88_200)
    },
    "no common divisor": partial(resampled, 24_001, 5_000),
    "above the band": with_hum,
    **{
        f"{kind} {subtype}": partial(encoded, kind, subtype, tolerance)
        for (kind, subtype), tolerance in ENCODINGS.items()
    },
    "louder than full scale": lambda: Recording(
        encode(4 * tone(), subtype="FLOAT"), 2 * tone(), 1e-3
    ),
    **{
        f"{name} chunk": partial(exact, between=chunk) for name, chunk in CHUNKS.items()
    },
    **{f"stream of {size:#x}": partial(exact, size=size) for size in STREAM_SIZES},
}


# === What is refused ===


def without_end(kind, subtype):
    data = encode(chirp(RATE, 5_000), kind=kind, subtype=subtype)
    return data[: len(data) // 2]


def without_middle():
    """tensorflow-io's kernel waits forever for the samples that are missing."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    data = encode(noise, kind="FLAC")
    return data[: len(data) // 3] + data[2 * len(data) // 3 :]


def flac_of(size):
    """A FLAC file that promises a number of samples."""
    data = bytearray(encode(tone(), kind="FLAC"))
    data[21] = data[21] & 0xF0 | size >> 32
    data[22:26] = struct.pack(">I", size & 0xFFFF_FFFF)
    return bytes(data)


def floats(samples):
    return encode(samples, subtype="FLOAT")


def second_with(value, place):
    return np.where(np.arange(RATE) == place, value, tone(duration_s=1))


# Name -> a function that makes the bytes, a part of the message; 2 s are allowed.
REFUSED = {
    "NaN": (lambda: floats(second_with(np.nan, 9_000)), "finite"),
    "infinity": (lambda: floats(second_with(np.inf, 0)), "finite"),
    "overflow": (lambda: floats(np.tile([[-3e38], [3e38]], (RATE // 2, 2))), "finite"),
    "zeros": (lambda: floats(np.zeros(RATE)), "silent"),
    "whisper of 0.0002": (lambda: floats(tone(peak=0.0002)), "silent"),
    "offset": (lambda: floats(np.full(RATE, 0.7)), "silent"),
    "0.2 s": (lambda: floats(tone(duration_s=0.2)), "0.20 s"),
    "no samples": (lambda: floats(np.zeros(0)), "0.00 s"),
    "2.5 s": (lambda: floats(tone(duration_s=2.5)), "at most 2 s"),
    "ten minutes": (lambda: encode(np.zeros(4_800_000), 8_000), "600.0 s"),
    "three channels": (lambda: floats(np.stack([tone()] * 3, axis=1)), "3 channels"),
    "empty": (lambda: b"", "0 bytes"),
    "text": (lambda: b"hello world" * 100, "cannot be decoded"),
    "head of a WAV": (lambda: wav(b"")[:30], "cannot be decoded"),
    "cut WAV": (lambda: wav(pcm16(tone()), size=10**6), "cut short"),
    "slow": (lambda: wav(pcm16(tone()), sample_rate=100), "4000 to 384000 samples"),
    "empty Ogg page": (lambda: b"OggS" + bytes(100), "cannot be decoded"),
    "AIFF": (lambda: encode(tone(), kind="AIFF"), "AIFF"),
    "half a FLAC": (lambda: without_end("FLAC", "PCM_16"), ""),
    "half an Ogg": (lambda: without_end("OGG", "VORBIS"), ""),
    "FLAC without its middle": (without_middle, ""),
    "FLAC of 0 samples": (lambda: flac_of(0), ""),
    "FLAC of 128 GiB": (lambda: flac_of(2**36 - 1), ""),
}
