import io

import numpy as np
import pytest
import soundfile

from bark_tf.audio.encoding import PCM_RATE_HZ, RESPONSE_FORMATS, Encoder
from bark_tf.audio.writing import to_pcm16

FRAME_S = 0.13  # an MP3 encoder's delay and its frames


def speech(rate, seconds=1.3):
    """A tone that is louder in the middle."""
    times = np.arange(round(seconds * rate)) / rate
    swell = 0.5 * np.sin(np.pi * times / seconds)
    return (swell * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def encoded(name, rate, audio, num_pieces):
    encoder, pieces = Encoder(name, rate), np.array_split(audio, num_pieces)
    return [
        encoder.add(piece, is_last)
        for piece, is_last in zip(
            pieces, [False] * (num_pieces - 1) + [True], strict=True
        )
    ]


def decoded(name, data):
    """The samples (n,) and their rate."""
    if name == "pcm":
        return np.frombuffer(data, "<i2") / 2**15, PCM_RATE_HZ
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        file._info.seekable = 0  # libsndfile cannot seek in FLAC of unknown length
        samples = np.zeros(10 * file.samplerate)
        return samples[: len(file.read(out=samples))], file.samplerate


@pytest.mark.parametrize("rate", [16_000, 24_000, 11_000])
@pytest.mark.parametrize("num_pieces", [1, 3])
@pytest.mark.parametrize("name", RESPONSE_FORMATS)
def test_every_format_decodes_to_the_right_length(name, num_pieces, rate):
    audio = speech(rate)
    samples, rate_now = decoded(name, b"".join(encoded(name, rate, audio, num_pieces)))
    seconds, expected = len(samples) / rate_now, len(audio) / rate
    if name == "mp3" and num_pieces > 1:
        assert expected <= seconds < expected + FRAME_S + 2 * 1152 / rate
    else:
        assert seconds == pytest.approx(expected, abs=2e-4)
    loudness = np.sqrt(np.mean(samples**2))
    assert loudness == pytest.approx(np.sqrt(np.mean(audio**2)), rel=0.1)


@pytest.mark.parametrize("name", RESPONSE_FORMATS)
def test_the_first_piece_can_be_heard_before_the_others_exist(name):
    audio = speech(24_000, seconds=3)
    first, second, _ = encoded(name, 24_000, audio, 3)
    samples, rate = decoded(name, first + second)
    assert 0.9 < len(samples) / rate <= 2.1


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_one_piece_is_a_file_that_states_its_length(name):
    audio = speech(24_000)
    (data,) = encoded(name, 24_000, audio, 1)
    samples, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    np.testing.assert_array_equal(samples, to_pcm16(audio))


def test_pieces_are_joined_without_a_seam():
    audio = speech(24_000)
    data = b"".join(encoded("pcm", 24_000, audio, 5))
    assert data == to_pcm16(audio).tobytes()
    resampled = [b"".join(encoded("pcm", 16_000, audio, n)) for n in (1, 5)]
    assert resampled[0] == resampled[1]


def test_loud_audio_is_clipped():
    (data,) = encoded("pcm", 24_000, np.array([2, -2], np.float32), 1)
    assert np.frombuffer(data, "<i2").tolist() == [32767, -32768]
