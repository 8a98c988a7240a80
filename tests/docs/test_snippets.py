"""The commands and the Python of README and docs: valid, and most of it run.

A comment before a block, `<!-- needs: NAME -->`, names the package without which it is
not run.
"""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from toy_cli import SPECIAL, WORDS, generation_config, tiny_config, voice
from toy_serving import fake_server

from bark_tf.cli.completion import all_parsers
from bark_tf.cli.main import build_parser, main

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(path for path in ROOT.glob("docs/*.md") if path.stem != "small_voice_log"),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "bark_tf/assets")),
    ROOT / "deploy" / "README.md",
]
FENCE = re.compile(
    r"(?:^<!-- needs: (?P<needs>.+) -->\n)?"
    r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
OTHERS = {".", "aplay", "cd", "curl", "docker", "export", "ffmpeg", "git", "python3"}


class Snippet(NamedTuple):
    language: str  # "" is the shell
    text: str
    needs: str | None
    line: int

    @property
    def can_run(self):
        return self.needs is None or (
            self.needs.isidentifier() and importlib.util.find_spec(self.needs)
        )


def snippets(text, language):
    found = [
        Snippet(m["language"], m["text"], m["needs"], text[: m.start()].count("\n") + 1)
        for m in FENCE.finditer(text)
    ]
    return [snippet for snippet in found if snippet.language == language]


# === Commands ===


def commands(text):
    """The words of each command, without assignments before it."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                yield from [words] if words else []
                words = []
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)


def check_command(words):
    """Raises an AssertionError if a command would be refused."""
    program, *arguments = words
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    if program == "bark-tf":
        try:
            build_parser().parse_args(arguments)
        except SystemExit as stop:
            assert stop.code == 0, words
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        names = {word for word in arguments if "=" not in word}
        assert names <= set(targets), words
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = re.findall(r"[\w-]+", " ".join(re.findall(r"\.\[(.*)\]", str(words))))
        assert set(extras) <= set(project["optional-dependencies"]), words
    elif program in ("python", "bash"):
        script = ROOT / arguments[0]
        assert script.is_file(), words
        options = [word for word in arguments if word.startswith("--")]
        source = script.read_text(encoding="utf-8")
        assert [option for option in options if f'"{option}"' not in source] == []
    else:
        assert program in OTHERS, words


def check_mention(words):
    """The same for a command in a sentence, which need not be complete."""
    words = next(commands(" ".join(words)))
    parsers = {parser.prog: parser for parser in all_parsers(build_parser())}
    parser = parsers.get(" ".join(words[:2]), parsers["bark-tf"])
    assert words[1].startswith("-") or words[1].isupper() or parser.prog != "bark-tf"
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert options <= set(parser._option_string_actions), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_valid(page):
    text = page.read_text(encoding="utf-8")
    for snippet in snippets(text, ""):
        for words in commands(snippet.text):
            check_command(words)
    for mention in re.findall(r"`(bark-tf [^`]+)`", text.replace("\n", " ")):
        check_mention(mention.split())


@pytest.mark.parametrize(
    "wrong",
    (
        "bark-tf speak Hello --sed 7",
        "bark-tf sing Hello",
        "bark-tf voice --out me.npz",
        "echo Hello | bark-tf speak - --stream --out x.wav",
        "make speek TEXT=Hello",
        'pip install ".[trane]"',
        "python benchmarks/generate.py --repeat 2",
        "python benchmarks/generates.py",
        "barktf speak Hello",
    ),
)
def test_a_wrong_command_is_found(wrong, capsys):
    with pytest.raises(AssertionError):
        for words in commands(wrong):
            check_command(words)


def test_a_wrong_mention_is_found():
    check_mention("bark-tf evaluate MODEL --limit N".split())
    for wrong in ("bark-tf evaluates MODEL", "bark-tf evaluate --limits 3"):
        with pytest.raises(AssertionError):
            check_mention(wrong.split())


# === Python ===


def run(text, replace=()):
    """Runs the Python of a page, from its top to its end."""
    names = {"__name__": "snippet"}
    for snippet in snippets(text, "python"):
        if snippet.can_run:
            code = snippet.text
            for old, new in replace:
                code = code.replace(old, new)
            exec(compile("\n" * snippet.line + code, "page", "exec"), names)
    return names


@pytest.mark.parametrize("wrong", ("import bark_tf.nothing", "x = 1 +", "print(y)"))
def test_wrong_python_is_found(wrong):
    with pytest.raises((ImportError, SyntaxError, NameError)):
        run(f"Text\n\n```python\nx = 1\n```\n\n```python\n{wrong}\n```\n")
    run(f"<!-- needs: no_such_package -->\n```python\n{wrong}\n```\n")


@pytest.fixture(scope="module")
def small_bark(tmp_path_factory):
    """A folder in which `suno/bark-small` and what the pages call so are toys."""
    from bark_tf import BarkModel, BarkProcessor, BarkTokenizer

    folder = tmp_path_factory.mktemp("pages")
    names = ("v2/en_speaker_6", "announcer")
    model = BarkModel(tiny_config(), generation_config())
    model.save_pretrained(folder / "suno" / "bark-small")
    BarkProcessor(
        BarkTokenizer.from_vocabulary(SPECIAL + WORDS), {n: voice() for n in names}
    ).save_pretrained(folder / "suno" / "bark-small")
    voice().save(folder / "me.npz")
    return folder


# A toy knows few words, and says little.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "page", ("README", "docs/from_transformers", "docs/from_suno", "docs/voices")
)
def test_python_runs_on_a_toy(page, small_bark, monkeypatch):
    monkeypatch.chdir(small_bark)
    run((ROOT / f"{page}.md").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_client_runs_on_a_toy(small_bark, monkeypatch):
    monkeypatch.chdir(small_bark)
    with fake_server(aliases={"v2/en_speaker_6": "announcer"}) as server:
        text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
        run(text, [("http://127.0.0.1:8000", server.url)])
    assert Path("hello.mp3").stat().st_size > 100
    assert Path("models/bark/1/saved_model.pb").is_file()


@pytest.mark.slow
def test_the_tutorial_runs_with_the_voice_that_ships(tmp_path, monkeypatch):
    import bark_tf

    monkeypatch.chdir(tmp_path)
    words = "one two three four five six seven eight nine zero one two three"
    bark_tf.speak(words, "kumo", seed=1).save("me.wav")
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    run(text)
    for snippet in snippets(text, ""):
        for program, *arguments in commands(snippet.text):
            if program == "bark-tf" and arguments[0] != "serve":
                assert main(arguments) == 0, arguments
    expected = "first.wav kumo.flac kumo.mp3 line_0.wav line_1.wav me.npz mine.wav"
    assert [name for name in expected.split() if not Path(name).exists()] == []


@pytest.mark.slow
def test_python_runs_with_the_voice_that_ships(tmp_path, monkeypatch):
    """Under the name of another one, with shards of its own speech."""
    import bark_tf

    monkeypatch.chdir(tmp_path)
    shipped = bark_tf.shipped_checkpoint()
    Path("suno").mkdir()
    Path("suno/bark-small").symlink_to(shipped)
    for number, words in enumerate(("one two three", "four five six")):
        bark_tf.speak(words, "kumo", seed=1).save(f"{number}.wav")
        Path(f"{number}.txt").write_text(words)
    prepare = ["prepare", ".", "prepared", "--model", str(shipped)]
    assert main(prepare) == 0
    for page in ("speaking", "keras"):
        run((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
