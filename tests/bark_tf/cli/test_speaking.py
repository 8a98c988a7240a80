"""Takes, lists of texts, marks, subtitles, loudness and loudspeakers of `speak`."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import serving_standins
import soundfile
from toy_cli import RATE, TEXT, VOICES, WORDS, only_line, read_wav, voice

from bark_tf.cli.main import main
from bark_tf.voices.presets import VoicePreset


@pytest.fixture
def heard(monkeypatch):
    """What sounddevice plays: (samples, rate)."""
    heard = []
    device = SimpleNamespace(
        play=lambda audio, rate, blocking: heard.append((audio.size, rate)),
        PortAudioError=OSError,
    )
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    return heard


def names():
    return sorted(path.name for path in Path().iterdir())


def lines(capsys):
    return capsys.readouterr().err.splitlines()


# === Many files ===


def test_takes_are_numbered_and_say_their_seeds(fake, capsys):
    Path("x").mkdir()
    command = ["speak", TEXT, "--takes", "10", "--out", "x/a.mp3", "--seed", "7"]
    assert main([*command, "--save-voice", "me"]) == 0
    said = lines(capsys)
    assert len(said) == 10 and said[1] == "bark-tf: 'x/a-02.mp3': 1.2 s, seed 8"
    assert [call["seed"] for call in fake.calls] == list(range(7, 17))
    assert len(list(Path("x").glob("a-??.mp3"))) == 10
    assert VoicePreset.from_npz("me-10.npz")


def test_each_line_of_a_file_gets_a_file(fake, capsys):
    Path("texts.txt").write_bytes("\ufeffword1\n\n word2 word3 \r\n".encode())
    assert main(["speak", "--texts", "texts.txt", "--seed", "7"]) == 0
    assert [line.split(": ")[1] for line in lines(capsys)] == [
        "'out-1.wav'",
        "'out-2.wav'",
    ]
    assert read_wav("out-2.wav").size == 0.8 * RATE
    fake.calls.clear()
    Path("out-1.wav").unlink()
    more = ["--takes", "2", "--subtitles", "s.vtt"]
    assert main(["speak", "--texts", "texts.txt", "--seed", "7", *more]) == 0
    assert [call["seed"] for call in fake.calls] == [7, 8, 7, 8]
    assert names() == sorted(
        ["texts.txt", "out-2.wav"]
        + [f"out-{n}-{take}.wav" for n in (1, 2) for take in (1, 2)]
        + [f"s-{n}-{take}.vtt" for n in (1, 2) for take in (1, 2)]
    )


def test_texts_come_from_standard_input_too(fake, monkeypatch):
    data = io.TextIOWrapper(io.BytesIO(b"word1\nword2"))
    monkeypatch.setattr(sys, "stdin", data)
    assert main(["speak", "--texts", "-", "--out", "a.wav"]) == 0
    assert names() == ["a-1.wav", "a-2.wav"]


def test_a_list_is_resumed(fake, capsys):
    Path("texts.txt").write_text("word1\nword2\nword3")
    Path("out-2.wav").write_text("there")
    assert main(["speak", "--texts", "texts.txt", "--resume"]) == 0
    assert len(fake.calls) == 2 and len(lines(capsys)) == 2
    assert Path("out-2.wav").read_text() == "there"


def test_all_texts_are_checked_before_the_first(fake, capsys):
    for text, words in [
        ("word1\n\n* * *", "line 3 of 'texts.txt' says nothing: '* * *'"),
        ("word1\nword2 [pause -1]", "line 2: a pause is written"),
        ("word1\n[voice: eve] word2", "line 2: [voice: NAME] takes a name"),
        ("\n \n", "'texts.txt' holds no texts"),
    ]:
        Path("texts.txt").write_text(text)
        assert main(["speak", "--texts", "texts.txt"]) == 1
        assert words in only_line(capsys)
    assert fake.calls == [] and names() == ["texts.txt"]


def test_an_error_keeps_what_is_done(fake, capsys, monkeypatch):
    Path("texts.txt").write_text("word1\nword2\nword3")
    generate = fake.generate

    def fail_later(**options):
        if len(fake.calls) == 1:
            raise MemoryError
        return generate(**options)

    monkeypatch.setattr(fake, "generate", fail_later)
    assert main(["speak", "--texts", "texts.txt"]) == 1
    assert names() == ["out-1.wav", "texts.txt"]
    assert "out of memory" in lines(capsys)[-1]


# === Marks ===


def test_marks_change_voice_and_pause(fake, capsys):
    voice(40).save("me.npz")
    text = f"word1 [pause 2]\n[voice: {VOICES[1]}] word2\n[voice: me]\nword3"
    assert main(["speak", text, "--alias", "me=me.npz", "--seed", "7"]) == 0
    assert only_line(capsys) == "bark-tf: 'out.wav': 3.5 s, seed 7"
    histories = [call["history_prompt"] for call in fake.calls]
    assert histories == [None, voice(), voice(40)]
    assert fake.calls[0]["seed"] == 7
    samples = read_wav("out.wav")
    assert not samples[round(0.4 * RATE) : round(2.4 * RATE)].any()


def test_marks_stream_too(fake, capsysbinary):
    command = ["speak", "word1 [pause 2] word2", "--stream", "--stream-format", "raw"]
    assert main(command) == 0
    assert len(capsysbinary.readouterr().out) == 2 * 2.8 * RATE


def test_marks_may_be_text(fake, checkpoint):
    assert main(["speak", "word1 [pause 2]", "--no-marks", "--quiet"]) == 0
    assert main(["speak", r"word1 \[pause 2]", "--quiet"]) == 0
    first, second = (call["input_ids"] for call in fake.calls)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["[voice: me.npz] word1"], "line 1: [voice: NAME] takes a name", 1),
        (["word1 [pause 99]"], "line 1: a pause is written [pause SECONDS]", 1),
        (["word1 [pause 1] word2", "--no-long"], "--no-long does not go with", 2),
        ([TEXT, "--alias", "me"], "--alias must be NAME=VOICE", 2),
    ],
)
def test_wrong_marks_are_one_line(fake, arguments, words, status, capsys):
    voice().save("me.npz")
    assert main(["speak", *arguments]) == status
    assert words in only_line(capsys)
    assert fake.calls == [] and names() == ["me.npz"]


# === Subtitles, loudness, loudspeakers ===


def test_subtitles_say_what_is_spoken_when(fake):
    assert main(["speak", TEXT, "--subtitles", "a.srt"]) == 0
    text = "1\n00:00:00,000 --> 00:00:01,200\nword1 word2 word3\n"
    assert Path("a.srt").read_text() == text
    long = ". ".join(" ".join(WORDS[i : i + 20]) for i in range(0, 60, 20))
    assert main(["speak", long, "--subtitles", "a.vtt"]) == 0
    assert Path("a.vtt").read_text().count("-->") >= len(fake.calls) > 2


def test_a_loudness_is_set(fake):
    assert main(["speak", TEXT, "--loudness", "-40", "--out", "quiet.wav"]) == 0
    assert main(["speak", TEXT, "--loudness", "-20", "--out", "loud.wav"]) == 0
    quiet, loud = (np.abs(read_wav(name)).max() for name in ("quiet.wav", "loud.wav"))
    assert loud / quiet == pytest.approx(10, rel=0.1)


def test_play_plays_and_writes_only_on_request(fake, heard, capsys):
    assert main(["speak", TEXT, "--play", "--seed", "7"]) == 0
    assert only_line(capsys) == "bark-tf: spoken: 1.2 s, seed 7"
    assert heard == [(1.2 * RATE, RATE)] and names() == []
    assert main(["speak", TEXT, "--play", "--takes", "2", "--out", "a.wav"]) == 0
    assert len(heard) == 3 and names() == ["a-1.wav", "a-2.wav"]


@pytest.mark.parametrize("name", ["mp3", "opus", "flac"])
def test_a_stream_is_encoded(fake, name, capsysbinary):
    long = " ".join(WORDS[:40])
    assert main(["speak", long, "--stream", "--stream-format", name]) == 0
    with soundfile.SoundFile(io.BytesIO(capsysbinary.readouterr().out)) as file:
        assert file.format == {"mp3": "MP3", "opus": "OGG", "flac": "FLAC"}[name]
        file._info.seekable = 0  # libsndfile cannot seek in FLAC of unknown length
        samples = np.zeros(100 * RATE)
        assert len(file.read(out=samples)) > 16 * RATE


# === What cannot be done ===


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["--subtitles", "a.txt"], "must end in .srt or .vtt", 1),
        (["--subtitles", "no/a.srt"], "There is no directory 'no'", 1),
        (["--loudness", "16"], "LUFS, from -70 to below 0", 1),
        (["--out", "a.aac"], ".wav, .flac, .ogg, .mp3, .opus. Received: 'a.aac'", 1),
        (["--resume"], "--resume goes with --texts", 2),
        (["--takes", "0"], "invalid positive whole number", 2),
        (["--takes", "2", "--greedy"], "--takes would be equal", 2),
        (["--stream", "--play"], "--play does not go with --stream", 2),
        (["--stream", "--takes", "2"], "--takes does not go with --stream", 2),
        (["--stream", "--subtitles", "a.srt"], "--subtitles does not go with", 2),
        (["--stream", "--loudness", "-16"], "--loudness does not go with", 2),
        (["--texts", "texts.txt"], "give TEXT, --file FILE, --texts FILE or", 2),
    ],
)
def test_what_is_impossible_fails_before_the_work(
    fake, arguments, words, status, capsys
):
    assert main(["speak", TEXT, *arguments]) == status
    assert words in only_line(capsys)
    assert fake.calls == [] and not hasattr(fake, "loaded") and names() == []


def test_what_is_not_installed_is_named_before_the_work(fake, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    for package, arguments, extra in [
        ("sounddevice", ["--play"], "play"),
        ("pyloudnorm", ["--loudness", "-16"], "loudness"),
    ]:
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["speak", TEXT, *arguments]) == 1
        assert f'pip install ".[{extra}]"' in only_line(capsys)
    assert not hasattr(fake, "loaded")


# === On a server ===


@pytest.fixture(scope="module")
def server():
    one = serving_standins.RestStandIn(serving_standins.FakeBark())
    yield one
    one.stop()


def test_everything_goes_with_a_server(server, heard, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("four [pause 0.5] two\n[voice: a] six")
    command = ["speak", "--texts", "texts.txt", "--server", server.address]
    command += ["--alias", "a=alpha", "--seed", "3", "--takes", "2", "--play"]
    command += ["--subtitles", "a.srt", "--loudness", "-30", "--out", "a.flac"]
    assert main(command) == 0
    assert len(lines(capsys)) == 4 and len(heard) == 4
    assert {"a-1-1.flac", "a-2-2.flac", "a-1-2.srt", "a-2-1.srt"} <= set(names())
    assert Path("a-1-1.srt").read_text().count("-->") == 2
    hop, rate = serving_standins.HOP, serving_standins.RATE
    assert heard[0] == (7 * hop + rate // 2, rate)
    assert main(["speak", "[voice: eve] six", "--server", server.address]) == 1
    assert "line 1: [voice: NAME] must be one of alpha, kumo" in only_line(capsys)
