"""What the page asks the server for, without a browser."""

import base64
import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from toy_cli import RATE, VOICES, voice
from toy_serving import WAIT_S, fake_server

from bark_tf.serving import page as page_module
from bark_tf.serving.page import Page
from bark_tf.voices.cloning import CONSENT

FILES = Path(page_module.__file__).with_name("static")
SOUND = {"content-type": "audio/wav"}


class Maker:
    """Makes a voice of every recording but an empty one, when it may."""

    def __init__(self):
        self.go, self.begun, self.paths = threading.Event(), threading.Event(), []
        self.go.set()

    def __call__(self, path):
        self.paths.append(path)
        self.begun.set()
        assert self.go.wait(WAIT_S)
        if not path.read_bytes():
            raise ValueError(f"A recording must not be empty. Received: {path}")
        report = SimpleNamespace(
            roundtrip=np.full(100, 0.5, np.float32),
            sample_rate=RATE,
            warnings=("too quiet",),
        )
        return voice(), report


@pytest.fixture(scope="module")
def maker():
    return Maker()


@pytest.fixture(scope="module")
def server(maker):
    with fake_server(options={"token": "s3cret", "max_characters": 200}) as server:
        Page(server.server, "a toy", maker)
        yield server


@pytest.fixture
def client(server):
    head = {"authorization": "Bearer s3cret"}
    with httpx.Client(base_url=server.url, headers=head, timeout=WAIT_S) as client:
        yield client


def test_the_files_need_no_token_and_nothing_from_elsewhere(server):
    for file in FILES.iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        response = httpx.get(server.url + path)
        assert response.text == file.read_text(encoding="utf-8"), path
        assert "default-src 'none'" in response.headers["content-security-policy"]
        kind = {"html": "html", "css": "css", "js": "javascript"}[file.suffix[1:]]
        assert response.headers["content-type"].startswith(f"text/{kind}")
        assert not re.search(r"https?:|//\w+\.\w", response.text), path
    assert httpx.get(f"{server.url}/page/settings").status_code == 401
    assert httpx.post(f"{server.url}/page/voice").status_code == 401
    assert httpx.get(f"{server.url}/v1/models").status_code == 401


def test_files_name_only_files_that_exist():
    names = {file.name for file in FILES.iterdir()}
    for file in FILES.iterdir():
        text = file.read_text(encoding="utf-8")
        named = re.findall(
            r"(?:href|src|from) ?=? ?\"\.?/?([\w.]+\.(?:css|js))\"", text
        )
        assert set(named) <= names, file.name
    html = (FILES / "index.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid="([\w-]+)"', html))
    references = re.findall(r'(?:for|aria-describedby|aria-labelledby)="([^"]+)"', html)
    assert {name for names in references for name in names.split()} <= ids
    script = (FILES / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r'byId\("([\w-]+)"\)', script)) <= ids


def test_settings_are_those_of_the_model(client):
    assert client.get("/page/settings").json() == {
        "about": "a toy",
        "max_characters": 200,
        "sample_rate": RATE,
        "temperatures": {
            "semantic_temperature": 1.0,
            "coarse_temperature": 1.0,
            "fine_temperature": 0.5,
        },
        "consent": CONSENT,
        "makes_voices": True,
        "voices": [*sorted(VOICES), "default"],
    }


def test_a_recording_becomes_a_voice_and_is_not_kept(client, maker):
    made = client.post("/page/voice?consent=true", content=b"RIFF", headers=SOUND)
    assert made.status_code == 200, made.text
    made = made.json()
    for name, array in voice().items():
        assert made["history_prompt"][name] == array.tolist()
        file = np.load(io.BytesIO(base64.b64decode(made["npz"])))
        np.testing.assert_array_equal(file[name], array)
    assert base64.b64decode(made["sound"]).startswith(b"RIFF")
    assert made["warnings"] == ["too quiet"] and made["report"]
    assert not maker.paths[-1].parent.exists()


@pytest.mark.parametrize(
    ("path", "headers", "content", "status", "param", "message"),
    [
        ("", SOUND, b"x", 400, "consent", "Please confirm: a voice belongs to a"),
        ("?consent=false", SOUND, b"x", 400, "consent", "Please confirm"),
        ("?consent=true", {"content-type": "text/plain"}, b"x", 400, "recording", ""),
        ("?consent=true", SOUND, b"", 400, "recording", "Received: the recording"),
        ("?consent=true", SOUND, bytes(2**23 + 1), 413, None, "at most 8388608 bytes"),
    ],
)
def test_a_recording_is_refused_in_words(
    client, maker, path, headers, content, status, param, message
):
    response = client.post(f"/page/voice{path}", content=content, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert all(str(path.parent) not in response.text for path in maker.paths)


def test_one_voice_is_made_at_a_time(client, maker):
    def post():
        url = "/page/voice?consent=true"
        statuses.append(client.post(url, content=b"x", headers=SOUND).status_code)

    statuses = []
    maker.go.clear()
    maker.begun.clear()
    thread = threading.Thread(target=post)
    thread.start()
    assert maker.begun.wait(WAIT_S)
    post()
    maker.go.set()
    thread.join(WAIT_S)
    assert statuses == [429, 200]


def test_a_model_without_a_tokenizer_makes_no_voices():
    with fake_server() as server:
        Page(server.server, "a toy")
        settings = httpx.get(f"{server.url}/page/settings").json()
        assert settings["makes_voices"] is False
        response = httpx.post(f"{server.url}/page/voice?consent=true", headers=SOUND)
        assert response.json()["error"]["message"] == "This server makes no voices"
