import errno
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bark_tf import __version__, hub
from bark_tf.audio.writing import stream_header
from bark_tf.cli import main as cli
from bark_tf.cli.main import main
from bark_tf.config import PRESETS, BarkConfig, BarkGenerationConfig
from bark_tf.processor import VOICE_INDEX_NAME, BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.voices.presets import VoicePreset

RATE = 24_000
COMMANDS = ("speak", "voices", "convert", "prepare", "train-tokenizer", "train")
COMMANDS += ("evaluate", "voice")
SPECIAL = ["[PAD]", "[UNK]", "."]
WORDS = [f"word{i}" for i in range(197)]
VOICES = ("v2/en_speaker_1", "v2/en_speaker_2", "announcer")
TEXT = "word1 word2 word3"


# === Models ===


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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A whole checkpoint: random weights, 197 words, three voices."""
    from bark_tf.bark import BarkModel

    directory = tmp_path_factory.mktemp("checkpoint")
    BarkModel(tiny_config(), generation_config()).save_pretrained(directory)
    BarkProcessor(
        BarkTokenizer.from_vocabulary(SPECIAL + WORDS), {n: voice() for n in VOICES}
    ).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def loaded(checkpoint):
    from bark_tf.bark import BarkModel

    return BarkModel.from_pretrained(checkpoint)


@pytest.fixture
def speak(checkpoint, loaded, monkeypatch, tmp_path):
    """`bark-tf speak ARGUMENTS` with the real model, which is loaded only once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "bark_tf.bark.BarkModel.from_pretrained", lambda *_, **__: loaded
    )

    def speak(*arguments):
        return main(["speak", "--model", checkpoint, "--no-xla", *arguments])

    return speak


class FakeModel:
    """Says noise, as long as the words would take, and remembers how it was asked."""

    generation_config = generation_config().replace(semantic_config=None)

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


@pytest.fixture
def fake(checkpoint, monkeypatch, tmp_path):
    """A fake model behind every name; the processor is real."""
    model = FakeModel()

    def from_pretrained(name, **options):
        model.loaded = (name, options)
        return model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli.MODEL_VARIABLE, checkpoint)
    monkeypatch.setattr("bark_tf.bark.BarkModel.from_pretrained", from_pretrained)
    return model


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


# === Help and usage ===


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
def test_every_help_ends_with_examples(arguments, capsys):
    assert main([*arguments, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "examples:\n" in out
    examples = out.split("examples:\n")[1]
    prog = " ".join(["bark-tf", *arguments])
    assert prog in examples and max(map(len, examples.splitlines())) <= 88


def test_the_examples_of_the_help_are_valid(capsys):
    """Each is parsed as the shell would split it."""
    for command in COMMANDS:
        main([command, "--help"])
        examples = capsys.readouterr().out.split("examples:\n")[1]
        for line in re.findall(r"bark-tf (.*)", examples):
            words = shlex.split(line, comments=True)
            words = words[: words.index("|")] if "|" in words else words
            assert cli._parser().parse_args(words).command is not None


def test_only_commands_that_exist_are_listed(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    listed = re.findall(r"^    ([\w-]+)(?:  |$)", out, flags=re.MULTILINE)
    assert listed == list(COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bark-tf {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["speak", "hi", "--shout"], "unrecognized arguments: --shout"),
        (["speak", "hi", "--temp", "1"], "unrecognized arguments: --temp"),
        (["speak"], "give TEXT, --file FILE, or -"),
        (["speak", "hi", "--file", "text.txt"], "give TEXT, --file FILE, or -"),
        (["speak", "hi", "--temperature", "-1"], "invalid non-negative number value"),
        (["speak", "hi", "--temperature", "nan"], "invalid non-negative number value"),
        (["speak", "hi", "--top-p", "1.5"], "invalid probability value: '1.5'"),
        (["speak", "hi", "--top-k", "0.5"], "invalid whole number value"),
        (["speak", "hi", "--seed", "-1"], "invalid whole number value"),
        (["speak", "hi", "--max-seconds", "0"], "invalid positive number value"),
        (["speak", "hi", "--dtype", "float8"], "invalid choice: 'float8'"),
        (["speak", "hi", "--quantize", "int4"], "invalid choice: 'int4'"),
        (["speak", "hi", "--greedy", "--temperature", "1"], "not allowed with"),
        (["speak", "hi", "--quiet", "--verbose"], "not allowed with"),
        (["speak", "hi", "--stream", "--out", "a.wav"], "not allowed with"),
        (["speak", "hi", "--stream", "--save-voice", "a"], "does not go with --stream"),
        (["speak", "hi", "--low-latency"], "goes with --stream"),
        (["convert", "source"], "required: DESTINATION"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments, message, capsys):
    assert main(arguments) == 2
    line = only_line(capsys)
    assert message in line and line.startswith("bark-tf") and "--help)" in line


def test_control_characters_of_an_argument_do_not_reach_the_terminal(capsys):
    assert main(["speak", "hi", "--no\x1b[2Jsuch\nflag\u202e"]) == 2
    line = only_line(capsys)
    assert "\\x1b[2Jsuch" in line and "\\u202e" in line and "\x1b" not in line


# === Finding the model ===


def test_without_a_name_the_voice_of_the_package_speaks(
    fake, checkpoint, monkeypatch, capsys
):
    monkeypatch.delenv(cli.MODEL_VARIABLE)
    monkeypatch.setattr(hub, "SHIPPED_CHECKPOINT", Path(checkpoint))
    assert main(["speak", TEXT]) == 0
    assert fake.loaded[0] == checkpoint
    said = capsys.readouterr().err
    assert said.count("comes with bark-tf") == 1 and "suno/bark-small" in said
    assert main(["speak", TEXT, "--quiet"]) == 0
    assert not capsys.readouterr().err


def test_an_argument_wins_over_the_environment(fake, checkpoint, monkeypatch):
    assert main(["speak", TEXT]) == 0
    assert fake.loaded[0] == checkpoint
    monkeypatch.setenv(cli.MODEL_VARIABLE, "no/such")
    assert main(["speak", TEXT, "--model", checkpoint]) == 0


def test_a_missing_directory_is_one_line(tmp_path, capsys):
    assert (
        main(["speak", "hi", "--out", str(tmp_path / "a.wav"), "--model", "./no"]) == 1
    )
    assert only_line(capsys) == "bark-tf: There is no directory './no'"


# === Speaking, with a real model ===


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


# === Speaking, with a fake model ===


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


def test_quiet_says_nothing(fake, capsys):
    assert main(["speak", TEXT, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert Path("out.wav").exists()


def test_verbose_says_the_seconds_of_each_stage(fake, capsys):
    assert main(["speak", TEXT, "--verbose"]) == 0
    assert re.search(r"bark-tf: load +\d+\.\d\d s\n", capsys.readouterr().err)


def test_warnings_are_one_line_each_unless_quiet(fake, capsys):
    text = "word1 " * 300
    assert main(["speak", text, "--no-long"]) == 0
    warning, done = capsys.readouterr().err.splitlines()
    assert warning.startswith("bark-tf: warning: ") and "256" in warning
    assert done.startswith("bark-tf: 'out.wav'")
    assert main(["speak", text, "--no-long", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


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


# === Streaming ===


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


# === Failing ===


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


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("top_k must be\nfine.\x1b[2J"), "top_k must be fine.\\x1b[2J"),
        (MemoryError(), "out of memory; --dtype bfloat16"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM"), "out of memory"),
        (TypeError("oops"), "unexpected TypeError: oops (--verbose shows where"),
        (ImportError("needs soxr"), "bark-tf: needs soxr"),
    ],
)
def test_every_error_is_one_line_and_1(fake, error, message, capsys):
    fake.error = error
    assert main(["speak", TEXT]) == 1
    assert message in only_line(capsys)


@pytest.mark.parametrize("how", ["--verbose", cli.DEBUG_VARIABLE])
def test_a_traceback_is_there_for_the_asking(fake, how, monkeypatch, capsys):
    fake.error = ValueError("oops")
    if how == cli.DEBUG_VARIABLE:
        monkeypatch.setenv(how, "1")
    assert main(["speak", TEXT, *([how] if how.startswith("--") else [])]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("\nbark-tf: oops\n")


def test_an_interrupt_is_130_and_leaves_the_old_file(fake, capsys):
    Path("out.wav").write_bytes(b"old")
    fake.error = KeyboardInterrupt()
    assert main(["speak", TEXT, "--save-voice", "me"]) == 130
    assert only_line(capsys) == "bark-tf: interrupted"
    assert [path.name for path in Path().iterdir()] == ["out.wav"]
    assert Path("out.wav").read_bytes() == b"old"


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_full_standard_output_is_one_line(checkpoint):
    code = """
import sys
from bark_tf.cli import main as cli
from bark_tf.voices import presets as voices
voices.suno_voices = dict  # what is listed then fits into Python's buffer
sys.exit(cli.main())
"""
    command = [sys.executable, "-c", code, "voices", "--model", checkpoint]
    # The buffer fails when it is flushed, and again when Python ends.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment
        )
    assert done.returncode == 1
    assert done.stderr == b"bark-tf: No space left on device\n"


def test_help_and_voices_do_not_import_tensorflow(checkpoint):
    code = f"""
import sys
from bark_tf.cli.main import main
for words in (["--help"], ["speak", "--help"], ["--version"],
              ["voices", "--model", {checkpoint!r}]):
    assert main(words) == 0
    heavy = {{"tensorflow", "keras", "rich"}} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_tensorflow_does_not_talk(tmp_path):
    """Its own switch does not reach all of its lines."""
    code = """
import os, sys
from bark_tf.cli import console, main as cli
arguments = cli._parser().parse_args(["voices"])
with console.only_our_words(arguments):
    import tensorflow as tf
    tf.function(lambda x: x + 1, jit_compile=True)(tf.ones(2))
    console.say("ours")
os.write(2, b"still open")
"""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TF_CPP")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True
    )
    assert done.stderr == b"bark-tf: ours\nstill open" and done.stdout == b""


def test_python_m_runs_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "bark_tf", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"bark-tf {__version__}\n")


# === voices ===


def test_voices_are_listed_with_their_source(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("bark_tf.voices.presets.suno_voices", dict)
    assert main(["voices", "--model", checkpoint]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[n, checkpoint] for n in sorted(VOICES)]
    assert len({line.index(checkpoint) for line in lines}) == 1


def test_no_voices_says_where_they_are(checkpoint, tmp_path, monkeypatch, capsys):
    mute = tmp_path / "mute"
    shutil.copytree(checkpoint, mute)
    (mute / VOICE_INDEX_NAME).unlink()
    monkeypatch.setattr("bark_tf.voices.presets.suno_voices", dict)
    assert main(["voices", "--model", str(mute)]) == 0
    assert "the extra `voices` of bark-tf" in only_line(capsys)


def test_names_of_voices_do_not_steer_the_terminal(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(
        "bark_tf.voices.presets.suno_voices", lambda: {"evil\x1b[2J": Path("a.npz")}
    )
    monkeypatch.setattr(
        "bark_tf.voices.presets.importlib.metadata.version", lambda name: "1"
    )
    assert main(["voices", "--model", checkpoint]) == 0
    listed = capsys.readouterr().out
    assert "evil\\x1b[2J" in listed and "\x1b" not in listed


# === convert ===


def test_a_checkpoint_is_converted(checkpoint, tmp_path, capsys):
    destination = tmp_path / "converted"
    arguments = ["--dtype", "float16", "--max-shard-size", "10MB"]
    assert main(["convert", checkpoint, str(destination), *arguments]) == 0
    assert only_line(capsys) == f"bark-tf: {str(destination)!r}"
    names = {path.name for path in destination.iterdir()}
    assert {"config.json", "tokenizer.json", "speaker_embeddings_path.json"} <= names
    assert main(["convert", checkpoint, str(destination)]) == 1
    assert "is not empty" in only_line(capsys)


def test_arguments_of_convert_are_passed_on(monkeypatch):
    calls = []

    def convert_checkpoint(*places, progress, **options):
        progress("tensor", 10**6, 2 * 10**6)
        calls.append((*places, options))
        return places[1]

    name = "bark_tf.convert.convert.convert_checkpoint"
    monkeypatch.setattr(name, convert_checkpoint)
    assert main(["convert", "a.pt", "b.pt", "out"]) == 0
    options = ["--names", "suno", "--codec", "c.th", "--config", "tiny", "--overwrite"]
    assert main(["convert", "a", "out", *options]) == 0
    assert calls[0][:2] == (["a.pt", "b.pt"], "out")
    assert calls[1] == (
        "a",
        "out",
        {
            "names": "suno",
            "dtype": None,
            "max_shard_size": "5GB",
            "codec": "c.th",
            "config": PRESETS["tiny"],
            "overwrite": True,
        },
    )
