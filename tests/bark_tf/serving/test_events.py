"""Speech as events, with a fake model."""

import base64
import json

import httpx
import numpy as np
import pytest
from toy_cli import RATE, TEXT, VOICES, WORDS, voice
from toy_serving import WAIT_S, WORD_S, fake_server, wait_for

LONG_TEXT = ". ".join(" ".join(WORDS[n : n + 8]) for n in range(0, 24, 8)) + "."
BODY = {
    "model": "tts-1",
    "input": TEXT,
    "response_format": "pcm",
    "stream_format": "sse",
    "seed": 7,
}


@pytest.fixture(scope="module")
def server():
    with fake_server(max_batch=1, options={"timeout_s": 2.0}) as server:
        yield server


def events(server, **changes):
    with httpx.stream(
        "POST", f"{server.url}/v1/audio/speech", json=BODY | changes, timeout=WAIT_S
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-seed"] == "7"
        for line in response.iter_lines():
            if line:
                yield json.loads(line.removeprefix("data: "))


def audio_of(found):
    kinds = [event["type"] for event in found]
    assert kinds[-1] == "speech.audio.done", found[-1]
    deltas = [e["audio"] for e in found if e["type"] == "speech.audio.delta"]
    return b"".join(map(base64.b64decode, deltas))


def test_the_audio_is_that_of_the_plain_response(server):
    plain = {**BODY, "input": LONG_TEXT, "stream_format": "audio"}
    expected = httpx.post(f"{server.url}/v1/audio/speech", json=plain).content
    found = [*events(server, input=LONG_TEXT)]
    assert audio_of(found) == expected
    assert len(found) > 3 and len(expected) > 2 * 24 * WORD_S * RATE


def test_progress_says_what_is_done_and_who_is_first(server):
    server.model.go.clear()
    first = events(server, input=LONG_TEXT)
    event = next(e for e in first if e.get("stage") == "semantic")
    assert event.pop("pieces") > 2
    assert event == {
        "type": "speech.progress",
        "stage": "semantic",
        "done": 0,
        "total": 1,
        "piece": 1,
        "ahead": 0,
    }
    second, third = events(server), events(server)
    assert next(second)["stage"] == "waiting"
    assert next(third)["ahead"] == 1
    server.model.go.set()
    for found in (first, second, third):
        assert audio_of([*found])


def test_an_error_is_an_event_when_the_response_has_begun(server, monkeypatch):
    def error(**changes):
        *_, last = events(server, **changes)
        return last["type"], last["error"]["code"]

    monkeypatch.setattr(server.model, "is_mute", True)
    assert error() == ("error", "nothing_said")
    monkeypatch.setattr(server.model, "is_mute", False)
    monkeypatch.setattr(server.model, "failing", {7})
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        for event in events(server):
            last = event
    assert last["error"]["message"] == "The speech failed; the log says where"
    monkeypatch.setattr(server.model, "failing", set())
    server.model.go.clear()
    assert error() == ("error", "timeout")
    server.model.go.set()


def test_a_client_that_leaves_frees_its_place(server):
    server.model.go.clear()
    found = events(server)
    next(found)
    assert server.engine._open == 1
    found.close()
    wait_for(lambda: server.engine._open == 0)
    server.model.go.set()
    assert audio_of([*events(server)])


@pytest.mark.filterwarnings("ignore:The model's vocabulary has no")
def test_unknown_words_are_named(server):
    first, *_ = events(server, input="word1 xylophone word2 dog dog")
    assert first == {"type": "speech.unknown_words", "words": ["xylophone", "dog"]}


def test_temperatures_of_stages_reach_the_model(server):
    audio_of(
        [*events(server, semantic_temperature="0.5", coarse_temperature=0, seed="7")]
    )
    options = server.model.options[-1]
    assert options["semantic_temperature"] == 0.5 and options["semantic_do_sample"]
    assert options["coarse_temperature"] == 0 and not options["coarse_do_sample"]
    assert "fine_temperature" not in options and "temperature" not in options


def test_a_voice_of_ones_own_speaks(server):
    arrays = {name: array.tolist() for name, array in voice().items()}
    assert audio_of([*events(server, history_prompt=arrays)]) == audio_of(
        [*events(server, voice=VOICES[0])]
    )
    wrong = {
        "semantic_prompt must hold values in [0, 10000)": {"semantic_prompt": [20_000]},
        "fine_prompt must be an array of integers": {"fine_prompt": [[1], [1, 2]]},
        "must have the same number of frames": {"coarse_prompt": [[1], [1]]},
        "no fine_prompt": {"fine_prompt": None},
    }
    for message, change in wrong.items():
        changed = {k: v for k, v in (arrays | change).items() if v is not None}
        assert_refused(server, "voice", message, history_prompt=changed)
    message = "voice must be left out beside history_prompt"
    assert_refused(server, "voice", message, history_prompt=arrays, voice="announcer")
    param = "history_prompt.semantic_prompt"
    prompt = {"semantic_prompt": 3}
    assert_refused(server, param, "valid list", history_prompt=prompt)
    wait_for(lambda: server.engine._open == 0)


def assert_refused(server, param, message, **changes):
    response = httpx.post(f"{server.url}/v1/audio/speech", json=BODY | changes)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert message in error["message"]


def test_a_voice_of_13_seconds_fits_beside_the_longest_text(server):
    semantic = np.full(650, 9999)
    frames = np.full((8, 975), 1023)
    arrays = {"semantic_prompt": semantic, "coarse_prompt": frames[:2]}
    arrays = {k: v.tolist() for k, v in (arrays | {"fine_prompt": frames}).items()}
    text = "\N{PILE OF POO}" * 4096  # 12 bytes each
    assert_refused(
        server, "input", "something to say", history_prompt=arrays, input=text
    )
