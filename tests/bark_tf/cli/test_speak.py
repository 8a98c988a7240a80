import errno
import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import serving_standins
import soundfile
from toy_cli import (
    RATE,
    TEXT,
    VOICES,
    WORDS,
    FakeModel,
    generation_config,
    only_line,
    read_wav,
    voice,
)

from bark_tf.audio.writing import stream_header
from bark_tf.cli.main import main
from bark_tf.processor import BarkProcessor
from bark_tf.voices.presets import VoicePreset

# === With a real model ===


def test_the_file_has_the_rate_and_length_of_the_audio(speak, capsys):
    assert speak(TEXT, "--seed", "7") == 0
    assert only_line(capsys) == "bark-tf: 'out.wav': 0.2 s, seed 7"
    samples = read_wav("out.wav")
    # 10 tokens at 49.9 Hz are 15 frames of 320 samples.
    assert samples.shape == (4800,) and np.abs(samples).max() > 100
    assert [path.name for path in Path().iterdir()] == ["out.wav"]


def test_the_seed_that_was_drawn_is_said_and_repeats_the_take(speak, capsys):
    assert speak(TEXT, "--out", "a.wav") == 0
    seed = only_line(capsys).rpartition("seed ")[2]
    assert speak(TEXT, "--out", "b.wav", "--seed", seed) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    capsys.readouterr()
    assert speak(TEXT, "--out", "c.wav") == 0
    assert only_line(capsys).rpartition("seed ")[2] != seed
    assert Path("a.wav").read_bytes() != Path("c.wav").read_bytes()


def test_a_saved_voice_speaks_again_and_a_stream_is_the_file(speak, capsysbinary):
    assert speak(TEXT, "--seed", "7", "--save-voice", "me", "--out", "first.wav") == 0
    assert VoicePreset.from_npz("me.npz").fine_prompt.shape == (8, 15)
    assert speak(TEXT, "--seed", "7", "--voice", "me.npz") == 0
    samples = read_wav("out.wav")
    assert (samples != read_wav("first.wav")).any()
    capsysbinary.readouterr()
    assert speak(TEXT, "--seed", "7", "--voice", "me.npz", "--stream") == 0
    out, err = capsysbinary.readouterr()
    assert out == stream_header(RATE) + samples.tobytes()
    assert err == b"bark-tf: streamed 0.2 s, seed 7\n"


# === With a fake model ===


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("", {}),
        ("--greedy", {"temperature": 0, "do_sample": False}),
        ("--temperature 0", {"temperature": 0, "do_sample": False}),
        ("--temperature 0.7", {"temperature": 0.7, "do_sample": True}),
        (
            "--semantic-temperature 0.6 --coarse-temperature 0 --fine-temperature 1",
            {
                "semantic_temperature": 0.6,
                "semantic_do_sample": True,
                "coarse_temperature": 0,
                "coarse_do_sample": False,
                "fine_temperature": 1,
                "fine_do_sample": True,
            },
        ),
        ("--top-k 10 --top-p 0.9", {"top_k": 10, "top_p": 0.9}),
        ("--min-eos-p 0.2", {"min_eos_p": 0.2}),
        # 49.9 tokens per second, rounded up.
        ("--max-seconds 2", {"semantic_max_new_tokens": 100}),
    ],
)
def test_arguments_become_keywords_of_generate(fake, arguments, options):
    from bark_tf.generation.options import stage_configs

    assert main(["speak", TEXT, "--seed", "7", *arguments.split()]) == 0
    assert fake.options == {"seed": 7, **options}
    assert fake.calls[0]["jit_compile"] is True
    stage_configs(fake.generation_config, options)  # takes them all


def test_the_model_is_loaded_as_asked(fake):
    arguments = ["--dtype", "bfloat16", "--quantize", "int8", "--no-xla"]
    assert main(["speak", TEXT, *arguments]) == 0
    assert fake.loaded[1] == {"dtype": "bfloat16", "quantize": "int8"}
    assert fake.calls[0]["jit_compile"] is False


@pytest.mark.parametrize(
    ("num_params", "arguments", "is_compiled"),
    [(10**6, [], False), (10**6, ["--xla"], True), (10**9, ["--no-xla"], False)],
)
def test_small_models_are_not_compiled(fake, num_params, arguments, is_compiled):
    fake.num_params = num_params
    assert main(["speak", TEXT, *arguments]) == 0
    assert fake.calls[0]["jit_compile"] is is_compiled


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("flac", "FLAC"), ("ogg", "OGG"), ("mp3", "MP3"), ("opus", "OGG")],
)
def test_other_formats_go_by_the_ending(fake, suffix, kind):
    assert main(["speak", TEXT, "--out", f"a.{suffix}"]) == 0
    info = soundfile.info(f"a.{suffix}")
    assert (info.samplerate, info.frames) == (RATE, 1.2 * RATE)
    assert info.format == kind


@pytest.mark.parametrize("source", ["argument", "file", "standard input"])
def test_text_comes_from_anywhere(fake, source, monkeypatch, checkpoint):
    data = f"\ufeff{TEXT}\n".encode()
    Path("text.txt").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    words = {
        "argument": [TEXT],
        "file": ["--file", "text.txt"],
        "standard input": ["-"],
    }[source]
    assert main(["speak", *words]) == 0
    expected = BarkProcessor.from_pretrained(checkpoint)(TEXT, return_tensors="np")
    assert (fake.calls[0]["input_ids"] == expected["input_ids"]).all()


def test_a_text_may_start_with_dashes(fake):
    assert main(["speak", "--seed", "7", "--", "--greedy"]) == 0
    assert fake.options == {"seed": 7}


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_an_error(fake, text, capsys):
    assert main(["speak", text]) == 1
    assert only_line(capsys) == "bark-tf: the text is empty"
    assert fake.calls == [] and not Path("out.wav").exists()


def test_files_that_are_no_text_are_errors(fake, capsys):
    Path("empty.txt").write_bytes("\ufeff\n".encode())
    assert main(["speak", "--file", "empty.txt"]) == 1
    assert only_line(capsys) == "bark-tf: the text is empty"
    Path("text.txt").write_bytes(b"caf\xe9 au lait")
    assert main(["speak", "--file", "text.txt"]) == 1
    assert "'text.txt' is not UTF-8 text: byte 3 is 0xe9" in only_line(capsys)
    assert main(["speak", "--file", "missing.txt"]) == 1
    assert only_line(capsys) == "bark-tf: No such file or directory: 'missing.txt'"


def test_an_unknown_voice_is_told_its_neighbours(fake, capsys):
    assert main(["speak", TEXT, "--voice", "v2/en_speaker_11"]) == 1
    line = only_line(capsys)
    assert "no voice 'v2/en_speaker_11'" in line and "'v2/en_speaker_1'" in line


def test_a_voice_of_the_checkpoint_is_loaded(fake):
    assert main(["speak", TEXT, "--voice", VOICES[0]]) == 0
    assert fake.calls[0]["history_prompt"] == voice()


def test_a_voice_may_not_leave_its_file(fake, capsys):
    Path("bad.npz").write_bytes(b"PK")
    assert main(["speak", TEXT, "--voice", "bad.npz"]) == 1
    assert "bad.npz is not a voice file" in only_line(capsys)


# === Long text ===


def test_2000_words_are_spoken_piece_by_piece(fake, capsys):
    sentences = [f"{' '.join(WORDS[i : i + 10])}." for i in range(0, 100, 10)]
    text = " ".join(sentences * 20)
    assert main(["speak", text, "--voice", VOICES[0], "--save-voice", "me"]) == 0
    assert only_line(capsys).startswith("bark-tf: 'out.wav': 9")  # no warnings
    assert len(fake.calls) > 50
    num_words = sum(call["attention_mask"].sum() for call in fake.calls)
    assert num_words >= 2000
    assert read_wav("out.wav").size > num_words * 0.4 * RATE
    assert VoicePreset.from_npz("me.npz")


@pytest.mark.parametrize(
    ("num_words", "arguments", "is_long"),
    [
        (3, [], False),
        (100, [], True),
        (3, ["--long"], True),
        (100, ["--no-long"], False),
    ],
)
def test_long_text_is_recognised(fake, monkeypatch, num_words, arguments, is_long):
    from bark_tf.generation import long_form

    asked = []
    real = long_form.generate_long

    def generate_long(*args, **options):
        asked.append(options)
        return real(*args, **options)

    monkeypatch.setattr(long_form, "generate_long", generate_long)
    text = " ".join(WORDS[:num_words])
    assert main(["speak", text, "--seed", "7", "--top-k", "3", *arguments]) == 0
    assert bool(asked) == is_long
    assert fake.calls[0]["seed"] == 7 and fake.calls[0]["top_k"] == 3


def test_what_is_long_depends_on_the_model(fake, monkeypatch):
    """A small one that says five seconds in one go, of a text of eight."""
    monkeypatch.setattr(
        FakeModel,
        "generation_config",
        generation_config().replace(
            semantic_config={"max_new_tokens": 250, "do_sample": True}
        ),
    )
    assert main(["speak", " ".join(WORDS[:12])]) == 0
    assert len(fake.calls) > 1


def test_a_text_that_went_wrong_leaves_no_voice(fake, capsys):
    """Silence in every attempt: it is written, with warnings."""
    fake.peak = 0.0
    assert main(["speak", TEXT, "--long", "--quiet", "--save-voice", "me"]) == 1
    assert "--save-voice" in only_line(capsys)
    assert [path.name for path in Path().iterdir()] == ["out.wav"]


# === Streams ===


def test_a_raw_stream_has_no_header(fake, capsysbinary):
    assert main(["speak", TEXT, "--stream", "--stream-format", "raw", "-q"]) == 0
    out, err = capsysbinary.readouterr()
    assert len(out) == 2 * 1.2 * RATE and err == b""
    assert fake.calls[0]["latency"] == "exact"


def test_a_stream_of_pieces_has_one_header(fake, capsysbinary):
    assert main(["speak", TEXT, "--stream"]) == 0
    out = capsysbinary.readouterr().out
    assert len(out) == 44 + 2 * 1.2 * RATE and out.count(b"RIFF") == 1


def test_low_latency_is_passed_on(fake, capsysbinary):
    assert main(["speak", TEXT, "--stream", "--low-latency"]) == 0
    assert fake.calls[0]["latency"] == "low"


def test_a_long_text_streams_its_pieces(fake, capsysbinary):
    assert main(["speak", " ".join(WORDS), "--stream", "--stream-format", "raw"]) == 0
    assert len(fake.calls) > 3
    assert len(capsysbinary.readouterr().out) > 2 * 0.4 * len(WORDS) * RATE


def test_a_terminal_gets_no_audio(fake, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["speak", TEXT, "--stream"]) == 2
    assert "send it to a player or a file" in only_line(capsys)


# === Failures ===


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_model_that_says_nothing_fails(fake, capsys, stream):
    fake.word_s = 0.0
    assert main(["speak", TEXT, *stream]) == 1
    assert "said nothing; try another --seed" in only_line(capsys)
    assert not Path("out.wav").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("no/out.wav", "There is no directory 'no'"),
        ("out.m4a", ".wav, .flac, .ogg, .mp3, .opus. Received: 'out.m4a'"),
        ("folder.wav", "is a directory"),
    ],
)
def test_an_impossible_output_fails_before_the_work(fake, out, message, capsys):
    Path("folder.wav").mkdir()
    assert main(["speak", TEXT, "--out", out]) == 1
    assert message in only_line(capsys)
    assert fake.calls == [] and not hasattr(fake, "loaded")


def test_a_full_disk_leaves_no_file(fake, monkeypatch, capsys):
    def full(path, data):
        path.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["speak", TEXT]) == 1
    assert only_line(capsys) == "bark-tf: No space left on device: 'out.wav'"
    assert list(Path().iterdir()) == []


# === Processes ===


# A model that needs no TensorFlow, for whole processes.
PROGRAM = """
import signal, sys, time, types
# A job in the background inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from bark_tf.config import BarkGenerationConfig

class BarkModel:
    generation_config = BarkGenerationConfig()
    sampling_rate = 24_000

    @classmethod
    def from_pretrained(cls, name, **options):
        return cls()

    def count_params(self):
        return 10

    def generate(self, **options):
        print("ready", flush=True)
        time.sleep(60)

    def stream(self, **options):
        while True:
            yield np.zeros(24_000, np.float32)

sys.modules["bark_tf.bark"] = types.SimpleNamespace(BarkModel=BarkModel)
from bark_tf.cli.main import main
sys.exit(main())
"""


def start(folder, checkpoint, *arguments):
    command = [sys.executable, "-c", PROGRAM, "speak", TEXT, "--model", checkpoint]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, *arguments], cwd=folder, stdout=pipe, stderr=pipe
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_control_c_ends_a_process_with_130(checkpoint, tmp_path):
    with start(tmp_path, checkpoint) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == b"bark-tf: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_a_closed_pipe_ends_a_stream_quietly(checkpoint, tmp_path):
    with start(tmp_path, checkpoint, "--stream") as process:
        assert process.stdout.read(4) == b"RIFF"
        process.stdout.close()
        assert process.wait(timeout=20) == 141
        assert process.stderr.read() == b""


# === Through a server ===


@pytest.fixture(scope="module")
def server():
    one = serving_standins.RestStandIn(serving_standins.FakeBark())
    yield one
    one.stop()


def test_a_server_speaks(server, tmp_path, capsysbinary):
    out = tmp_path / "out.flac"
    command = ["speak", "four", "--server", server.address, "--voice", "alpha"]
    command += ["--seed", "3", "--fine-temperature", "0"]
    assert main([*command, "--out", str(out)]) == 0
    audio, rate = soundfile.read(out)
    assert rate == serving_standins.RATE
    np.testing.assert_allclose(audio[0], ord("f") / 256 + 0.008, atol=1e-4)
    assert b"seed 3" in capsysbinary.readouterr().err
    assert main([*command, "--stream", "--stream-format", "raw"]) == 0
    streamed = np.frombuffer(capsysbinary.readouterr().out, "<i2")
    assert streamed.size == audio.size


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["--model", "x"], "--model does not go with --server", 2),
        (["--top-k", "3"], "--top-k does not go with --server", 2),
        (["--voice", "nobody"], "voice must be empty or one of", 1),
    ],
)
def test_what_a_server_refuses(server, arguments, words, status, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out.wav")]
    command = ["speak", "four", "--server", server.address]
    assert main([*command, *out, *arguments]) == status
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_client_does_not_load_tensorflow(server, tmp_path):
    code = (
        "import sys; from bark_tf.cli.main import main; status = main(sys.argv[1:]); "
        "sys.exit(status or ('tensorflow' in sys.modules) * 9)"
    )
    command = ["speak", "four", "--server", server.address, "-o", "out.wav"]
    run = [sys.executable, "-c", code, *command]
    assert subprocess.run(run, cwd=tmp_path).returncode == 0
