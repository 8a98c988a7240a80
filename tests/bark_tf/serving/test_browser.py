"""The page in Chromium: typed, heard, cancelled, recorded.

Chromium is that of the environment variable CHROMIUM, or of the system. With the
variable SCREENSHOTS, pictures of the page are written into that directory.
"""

import contextlib
import io
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toy_cli import RATE, WORDS
from toy_serving import WAIT_S, FakeModel, fake_server, wait_for

from bark_tf.cli.main import main
from bark_tf.serving.page import Page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium"),
]
BROWSER_WAIT_S = 180  # of which a busy machine takes half
TEXT = "word1 word2 word3"
LONG_TEXT = ". ".join(" ".join(WORDS[n : n + 8]) for n in range(0, 24, 8)) + "."
# A microphone that plays a file, which nobody has to allow.
FLAGS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
SPEECH = Path(__file__).parents[2] / "data" / "one_nine_three.ogg"
# What is played, and when the page has played it all.
SPY = """
    window.played = [];
    const start = AudioBufferSourceNode.prototype.start;
    AudioBufferSourceNode.prototype.start = function (when) {
        const peak = Math.max(...this.buffer.getChannelData(0).map(Math.abs));
        window.played.push({when, peak, seconds: this.buffer.duration});
        start.call(this, when);
    };
"""


class Tickets(threading.Semaphore):
    """Lets one batch of a `FakeModel` through per ticket."""

    def wait(self, timeout):
        return self.acquire(timeout=timeout)

    def set(self):
        self.release(1000)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    file = tmp_path_factory.mktemp("microphone") / "speech.wav"
    soundfile.write(file, *soundfile.read(SPEECH))
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={file}"]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens tabs; all of them together may not complain, nor ask another host."""
    complaints = []

    def open_page(url, width=1280, ready=True, **context):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, accept_downloads=True, **context
        )
        opened.enter_context(contextlib.closing(context))
        page = context.new_page()
        page.set_default_timeout(1000 * BROWSER_WAIT_S)
        page.add_init_script(SPY)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if ready else None)
        page.on("request", lambda asked: asked_for.add(asked.url.split("/")[2]))
        page.goto(url)
        if ready:
            page.locator("#voice option").first.wait_for(state="attached")
        hosts.add(url.split("/")[2])
        return page

    asked_for, hosts = set(), set()
    with contextlib.ExitStack() as opened:
        yield open_page
    assert not [text for text in complaints if "status of 4" not in text]
    assert {host for host in asked_for if host} <= hosts


@pytest.fixture(scope="module")
def toy():
    """A fake model that speaks with tickets, two places in its queue, the page."""
    model = FakeModel()
    model.go = Tickets(0)
    options = {"max_characters": 300}
    with fake_server(model, options=options, max_requests=2, max_batch=1) as server:
        Page(server.server, "using a toy")
        yield server


def speak(page, text, **fields):
    for name, value in {"input": text, **fields}.items():
        page.fill(f"#{name}", value)
    page.click("#speak")


def wait_for_status(page, pattern):
    """Waits until the status line matches; returns it."""
    status = page.locator("#status").filter(has_text=re.compile(pattern))
    error = page.locator("#speech .error:not(:empty)")
    status.or_(error).first.wait_for()
    assert status.is_visible(), error.all_text_contents()
    return status.text_content()


def downloaded(page, selector="#download"):
    """The name and the bytes of a file that the page offers."""
    with page.expect_download() as download:
        page.click(selector)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def sound_of(page):
    """The spoken audio, float64 (samples,), and its rate; not silent."""
    assert page.get_attribute("#audio", "src") == page.get_attribute(
        "#download", "href"
    )
    audio, rate = soundfile.read(io.BytesIO(downloaded(page)[1]))
    assert np.abs(audio).max() > 0.01 and audio.std() > 0.001
    return audio, rate


# === Speech ===


def test_a_text_is_typed_spoken_and_heard_while_it_is_made(toy, open_page):
    page = open_page(toy.url)
    assert page.text_content("#about") == "Using a toy."
    assert page.text_content("#input-count") == "0 of at most 300 characters"
    page.click("#input")
    page.keyboard.type(LONG_TEXT)
    count = f"{len(LONG_TEXT)} of at most 300 characters"
    assert page.text_content("#input-count") == count
    speak(page, LONG_TEXT, seed="7")
    status = wait_for_status(page, "Sentence 1 of")
    pieces = int(status.split(" of ")[1].split(":")[0])
    assert page.is_visible("#progress") and not page.is_visible("#result")
    toy.model.go.release()
    wait_for_status(page, "Sentence 2 of")
    assert len(page.evaluate("played")) == 1  # before the second sentence is spoken
    assert page.is_visible("#waveform") and not page.is_visible("#audio")
    toy.model.go.release(pieces - 1)
    done = wait_for_status(page, "Done")
    audio, rate = sound_of(page)
    assert done == f"Done: {audio.size / rate:.1f} seconds, seed 7." and rate == RATE
    played = page.evaluate("played")
    assert len(played) == pieces and all(piece["peak"] > 0.1 for piece in played)
    assert sum(p["seconds"] for p in played) == pytest.approx(audio.size / rate)
    for before, after in itertools.pairwise(played):
        assert after["when"] >= before["when"] + before["seconds"] - 1e-6
    label = page.get_attribute("#waveform", "aria-label")
    assert re.fullmatch(r"Waveform of [\d.]+ seconds, peak [1-9]\d* % .*", label)
    colours = page.evaluate(
        "['waveform', 'spectrogram'].map(id => new Set(document.getElementById(id)"
        ".getContext('2d').getImageData(0, 0, 200, 90).data).size)"
    )
    assert min(colours) > 3  # something is drawn
    page.click("#keep")
    assert page.input_value("#seed") == "7"


@pytest.mark.filterwarnings("ignore:The model's vocabulary has no")
def test_unknown_words_are_named(toy, open_page):
    page = open_page(toy.url)
    toy.model.go.release()
    speak(page, "word1 xylophone")
    wait_for_status(page, "Done")
    assert page.text_content("#unknown").endswith("wrongly: xylophone")
    assert page.text_content("#command").startswith("bark-tf speak --long --seed ")


def test_cancelling_frees_the_place(toy, open_page):
    page = open_page(toy.url)
    for cancel in (
        lambda: page.click("#cancel"),
        lambda: page.keyboard.press("Escape"),
    ):
        speak(page, TEXT)
        wait_for_status(page, "Sentence 1 of")
        assert toy.engine._open == 1
        page.click("#speak", force=True)  # which is ignored
        cancel()
        assert wait_for_status(page, "Cancelled") == "Cancelled."
        wait_for(lambda: toy.engine._open == 0)
        assert page.is_disabled("#cancel") and not page.is_visible("#progress")
    toy.model.go.release()
    speak(page, TEXT)
    wait_for_status(page, "Done")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("input", "", "Write something to say first."),
        (
            "input",
            "word1 " * 60,
            "The text is too long: 360 of at most 300 characters.",
        ),
        ("input", "...", "text must contain something to say. Received: text='...'"),
        ("seed", "seven", "A seed is a whole number, such as 7."),
        ("seed", str(2**64), f"Input should be less than {2**64}"),
        ("semantic_temperature", "-1", "A temperature is a number of at least 0"),
        ("fine_temperature", "0,5", "A temperature is a number of at least 0"),
    ],
)
def test_bad_input_is_explained_beside_its_field(toy, open_page, field, value, message):
    page = open_page(toy.url)
    speak(page, TEXT, **{field: value} if field != "input" else {})
    if field == "input":
        page.keyboard.press("Escape")
        speak(page, value)
    place = page.locator(f"#{field}-error")
    place.filter(has_text=message).wait_for()
    assert page.get_attribute(f"#{field}", "aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == field
    assert f"{field}-error" in page.get_attribute(f"#{field}", "aria-describedby")
    toy.model.go.release()
    page.fill(f"#{field}", "")
    speak(page, TEXT)
    wait_for_status(page, "Done")
    assert place.text_content() == ""
    assert page.get_attribute(f"#{field}", "aria-invalid") is None


def test_two_tabs_speak_at_once_and_a_third_hears_that_it_is_full(toy, open_page):
    tabs = [open_page(toy.url) for _ in range(3)]
    for number, page in enumerate(tabs):
        speak(page, TEXT, seed=str(number))
        if number < 2:
            wait_for_status(page, "Sentence")
    busy = tabs[2].locator("#speak-error").filter(has_text="The server is busy")
    busy.wait_for()
    assert "waiting" in wait_for_status(tabs[1], "waiting")
    toy.model.go.release(2)
    for page in tabs[:2]:
        wait_for_status(page, "Done")
    heard = [sound_of(page)[0] for page in tabs[:2]]
    assert heard[0].shape == heard[1].shape and not np.allclose(*heard)
    toy.model.go.release()
    tabs[2].click("#speak")
    wait_for_status(tabs[2], "Done")


def test_everything_works_from_the_keyboard(toy, open_page):
    page = open_page(toy.url)
    keyboard, order = page.keyboard, []
    for _ in range(8):
        keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
        if order[-1] == "input":
            keyboard.type(TEXT)
    temperatures = [f"{stage}_temperature" for stage in ("semantic", "coarse", "fine")]
    assert order == ["input", "voice", "seed", *temperatures, "play", "speak"]
    for leave, press in (
        ("speak", "Enter"),
        ("input", "Control+Enter"),
        ("seed", "Enter"),
    ):
        page.focus(f"#{leave}")
        keyboard.press(press)
        wait_for_status(page, "Sentence 1")
        keyboard.press("Escape")
        wait_for_status(page, "Cancelled")
    page.focus("#speak")
    keyboard.press("Enter")
    wait_for_status(page, "Sentence 1")
    keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "cancel"
    keyboard.press("Space")
    wait_for_status(page, "Cancelled")
    assert page.evaluate("document.activeElement.id") == "speak"


def test_a_token_is_asked_for(open_page):
    model = FakeModel()
    with fake_server(model, options={"token": "s3cret"}) as server:
        Page(server.server, "using a toy")
        page = open_page(server.url, ready=False)
        page.locator("#token-error").filter(has_text="token").wait_for()
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.locator("#token:focus").wait_for()
        page.fill("#token", "s3cret")
        page.keyboard.press("Enter")
        page.locator("#voice option").first.wait_for(state="attached")
        assert not page.is_visible("#access")
        assert "no semantic tokenizer" in page.text_content("#recorder-note")
        speak(page, TEXT)
        wait_for_status(page, "Done")
        sound_of(page)


def check_layout(page, name):
    """Nothing sticks out of the page; takes a picture of it."""
    if "SCREENSHOTS" in os.environ:
        path = Path(os.environ["SCREENSHOTS"]) / f"page-{name}.png"
        page.screenshot(path=path, full_page=True)
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits(toy, open_page, width, scheme):
    page = open_page(toy.url, width=width, color_scheme=scheme)
    toy.model.go.release(100)
    speak(page, LONG_TEXT, seed="12345678901234567890")
    wait_for_status(page, "Done")
    while toy.model.go.acquire(blocking=False):
        pass
    page.fill("#seed", "x")
    page.click("#speak")
    check_layout(page, f"{width}-{scheme}")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


# === The shipped voice, `bark-tf demo` ===


@pytest.fixture(scope="module")
def demo():
    """The address of a running `bark-tf demo`, which ends well."""
    command = [sys.executable, "-m", "bark_tf", "demo", "--port", "0", "--no-warm-up"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BARK_TF")}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stderr.readline() for _ in range(2)]
        address = re.search(r"http://127\.0\.0\.1:\d+/", lines[-1])
        assert address, lines
        yield address[0]
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == ""
        assert process.wait(WAIT_S) == 0


def check_command(page, folder, monkeypatch):
    """The command that the page shows gives the file that it offers."""
    wait_for_status(page, "Done")
    sound_of(page)
    monkeypatch.chdir(folder)
    name, *arguments = shlex.split(page.text_content("#command"))
    assert name == "bark-tf"
    assert main([arguments[0], "-q", "-o", "again.wav", *arguments[1:]]) == 0
    assert Path("again.wav").read_bytes() == downloaded(page)[1]


def test_the_audio_is_that_of_the_command_line(demo, open_page, tmp_path, monkeypatch):
    page = open_page(demo)
    page.select_option("#voice", "alpha")
    text = "one two three four five six seven eight. nine zero 'one' two three four"
    speak(page, text, seed="7", coarse_temperature="0.6", fine_temperature="0")
    check_command(page, tmp_path, monkeypatch)
    assert "--voice 'alpha'" in page.text_content("#command")


def test_a_recorded_voice_speaks(demo, open_page, tmp_path, monkeypatch):
    page = open_page(demo, width=400)
    assert "make and use one only of yourself" in page.text_content("#consent-text")
    page.click("#recording")
    assert "confirm this first" in page.text_content("#consent-error")
    page.focus("#consent")
    page.keyboard.press("Space")
    page.focus("#recording")
    page.keyboard.press("Enter")
    page.locator("#recording").filter(has_text="Stop (3 s)").wait_for()
    page.keyboard.press("Escape")
    status = page.locator("#recorder-status")
    status.filter(has_text="Cancelled.").wait_for()
    assert page.text_content("#recording") == "Record"

    page.keyboard.press("Enter")
    page.locator("#recording").filter(has_text="Stop (3 s)").wait_for()
    page.keyboard.press("Enter")
    status.filter(has_text='"Recorded 1" is chosen above').wait_for()
    assert page.input_value("#voice") == "Recorded 1"
    assert re.match(r"3\.\d s of the recording", page.text_content("#recorded-report"))
    assert "only 3." in page.text_content("#recorded-warnings")
    name, data = downloaded(page, "#recorded-file")
    (tmp_path / name).write_bytes(data)
    speak(page, "one two", seed="3")
    check_command(page, tmp_path, monkeypatch)

    page.set_input_files(
        "#file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"no"}
    )
    error = page.locator("#recording-error")
    error.filter(has_text="no sound that the browser can read").wait_for()
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(80_000), 16_000, format="WAV")
    silent = {"name": "b.wav", "mimeType": "audio/wav", "buffer": silence.getvalue()}
    page.set_input_files("#file", silent)
    error.filter(has_text="A recording must not be silent").wait_for()
    check_layout(page, "400-recorded")
