"""The HTTP server with a fake model: what it refuses, and how it ends."""

import json
import logging
import re
import socket
import threading

import httpx
import openai
import pytest
from toy_cli import RATE, TEXT, VOICES, WORDS
from toy_serving import WAIT_S, WORD_S, FakeModel, fake_server, wait_for

from bark_tf.serving import gate

LONG_TEXT = ". ".join(" ".join(WORDS[n : n + 8]) for n in range(0, 48, 8)) + "."
SAMPLES = round(3 * WORD_S * RATE)  # of TEXT
BODY = {"model": "tts-1", "input": TEXT, "voice": "default", "response_format": "pcm"}


@pytest.fixture(scope="module")
def server():
    aliases = {"alloy": VOICES[0]}
    with fake_server(
        options={"max_characters": 500}, max_requests=3, aliases=aliases
    ) as server:
        yield server


@pytest.fixture
def post(server):
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as client:
        yield lambda **changes: client.post(
            "/v1/audio/speech", json={**BODY, **changes}
        )


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


@pytest.fixture
def held(server, post):
    """A request that is being spoken until `server.model.go` is set."""
    server.model.go.clear()
    server.model.begun.clear()
    thread, results = in_thread(post)
    assert server.model.begun.wait(WAIT_S)
    yield results
    server.model.go.set()
    thread.join(WAIT_S)
    wait_for(lambda: server.engine._open == 0)


# === Lists ===


def test_lists_are_those_that_clients_ask_for(server):
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="x", max_retries=0
    ) as client:
        assert [model.id for model in client.models.list()] == ["toy"]
        assert client.models.retrieve("toy").owned_by == "bark-tf"
        with pytest.raises(openai.NotFoundError, match="'nothing'"):
            client.models.retrieve("nothing")
    names = [*sorted(VOICES), "default", "alloy"]
    voices = httpx.get(f"{server.url}/v1/audio/voices").json()["voices"]
    assert voices == [{"id": name, "name": name} for name in names]
    models = httpx.get(f"{server.url}/v1/audio/models").json()
    assert models == {"models": [{"id": "toy", "name": "toy"}]}


# === Refusals ===


@pytest.mark.parametrize(
    ("changes", "status", "param", "message"),
    [
        ({"response_format": "aac"}, 400, "response_format", "one of mp3, opus, flac"),
        ({"speed": 1.5}, 400, "speed", "speed must be 1"),
        ({"voice": "nova"}, 400, "voice", "announcer, .*default, alloy"),
        ({"voice": None}, 400, "voice", "valid string"),
        ({"model": "whisper-1"}, 404, "model", "'toy', or one of OpenAI's"),
        ({"input": ""}, 400, "input", "something to say"),
        ({"input": "word1\n[voice: me.npz] word2"}, 400, "input", "line 2: voice must"),
        ({"input": "[pause 60] word1 [pause 1]"}, 400, "input", "at most 60 s in all"),
        ({"input": "word1 " * 100}, 400, "input", "at most 500 characters"),
        ({"input": "word1 " * 30_000}, 413, None, "at most 137072 bytes"),
        ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"stream_format": "text"}, 400, "stream_format", "'audio' or 'sse'"),
        ({"pitch": 2}, 400, "pitch", "not permitted"),
    ],
)
def test_a_wrong_request_is_refused_as_openai_refuses(
    post, changes, status, param, message
):
    response = post(**changes)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error" and set(error) == {
        "message", "type", "param", "code"
    }  # fmt: skip
    assert re.search(message, error["message"]), error["message"]


def test_what_is_not_a_request_is_refused(server):
    url = f"{server.url}/v1/audio/speech"
    head = {"content-type": "application/json"}
    assert httpx.post(url, content=b"{", headers=head).status_code == 400
    assert httpx.get(url).json()["error"]["message"] == "Method Not Allowed"
    assert httpx.get(f"{server.url}/v2").json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{server.url}/v2").status_code == 404
    for length in ("-1", "x"):
        wrong = f"POST /v1/audio/speech HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(server.url[-5:]))) as client:
            client.sendall(wrong.encode())
            assert client.recv(99).startswith(b"HTTP/1.1 400")


def test_a_body_of_unknown_length_is_bounded(server):
    chunks = (b" " * 1000 for _ in range(140))
    head = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/audio/speech", content=chunks, headers=head)
    assert response.status_code == 413
    assert "at most 137072 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize("head", ["Content-Length: 4000000", "Expect: 100-continue"])
def test_a_client_that_is_still_sending_sees_why_it_is_refused(server, head):
    """The answer waits for the body: a reset connection would take it away."""
    is_sent = head.startswith("Content")
    head = head if is_sent else f"Content-Length: 4000000\r\n{head}"
    head = f"Host: localhost\r\n{head}"
    request = f"POST /v1/audio/speech HTTP/1.1\r\n{head}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url[-5:]))) as client:
        client.sendall(request.encode())
        if is_sent:
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(WAIT_S)
            client.sendall(bytes(4_000_000))
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413") and b"at most 137072 bytes" in answer


def test_a_client_that_sends_nothing_more_is_answered(server, monkeypatch):
    monkeypatch.setattr(gate, "_DISCARD_S", 0.1)
    head = "Host: localhost\r\nContent-Length: 4000000"
    request = f"POST /v1/audio/speech HTTP/1.1\r\n{head}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url[-5:]))) as client:
        client.sendall(request.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


# === Speech ===


def test_what_the_body_asks_for_reaches_the_model(server, post):
    response = post(seed=7, temperature=0.0, voice="alloy", instructions="Be merry")
    assert response.headers["x-seed"] == "7" and server.model.batches[-1] == [7]
    assert server.model.options[-1]["temperature"] == 0
    assert not server.model.options[-1]["do_sample"]
    assert len(response.content) == 2 * SAMPLES
    assert response.headers["content-type"] == "audio/pcm"
    again = post(seed=int(post().headers["x-seed"]))
    assert again.status_code == 200


def test_a_model_that_says_nothing_is_an_error(server, post, monkeypatch):
    monkeypatch.setattr(server.model, "is_mute", True)
    response = post(response_format="flac")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "nothing_said"


def test_a_failure_is_an_error_without_the_text(server, post, caplog, monkeypatch):
    monkeypatch.setattr(server.model, "failing", {3})
    with caplog.at_level(logging.INFO):
        response = post(seed=3)
        wait_for(lambda: "ValueError" in caplog.text)
    assert response.json()["error"]["code"] == "failed" and response.status_code == 500
    assert "toy_serving.py" in caplog.text and "secret" not in caplog.text
    assert post(seed=4).status_code == 200


def test_the_log_has_a_line_of_json_per_request_and_no_text(server, post, caplog):
    with caplog.at_level(logging.INFO, "bark_tf.serving"):
        response = post(voice="alloy")
        wait_for(lambda: caplog.messages)
    (line,) = map(json.loads, caplog.messages)
    assert line["id"] == response.headers["x-request-id"]
    assert (line["status"], line["route"]) == (200, "/v1/audio/speech")
    assert (line["voice"], line["format"], line["characters"]) == ("alloy", "pcm", 17)
    assert line["audio_s"] == pytest.approx(3 * WORD_S)
    assert line["first_byte_s"] <= line["seconds"] and line["problems"] == 0
    assert not {*TEXT.split()} & {*caplog.text.replace('"', " ").split()}


def test_metrics_count_what_happened(server, post):
    def read():
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        }

    before = read()
    post()
    post(voice="nobody")
    after = read()
    route = 'bark_tf_requests_total{route="/v1/audio/speech",status="%d"}'
    for name, change in (
        (route % 200, 1),
        (route % 400, 1),
        ("bark_tf_audio_seconds_total", 3 * WORD_S),
        ("bark_tf_batch_rows_count", 1),
        ("bark_tf_first_byte_seconds_count", 1),
        ("bark_tf_request_seconds_count", 2),
    ):
        assert after[name] - before.get(name, 0) == pytest.approx(change), name
    assert after["bark_tf_queue_rows"] == after["bark_tf_open_requests"] == 0


# === A full queue, deadlines, clients that go away ===


def test_a_full_queue_answers_429_and_when_to_come_back(server, post, held):
    waiting = [in_thread(post) for _ in range(2)]
    wait_for(lambda: server.engine._open == 3)
    response = post()
    assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["code"] == "busy"
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    server.model.go.set()
    for thread, results in waiting:
        thread.join(WAIT_S)
        assert results[0].status_code == 200


def test_a_client_that_goes_away_frees_its_place(server, post, held):
    for _ in range(5):  # more than there are places
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/audio/speech", json=BODY, timeout=0.2)
        wait_for(lambda: server.engine._open == 1)
    before = len(server.model.batches)
    server.model.go.set()
    assert post(seed=11).status_code == 200
    assert server.model.batches[before:] == [[11]]  # nobody spoke for those who left


def test_a_client_that_leaves_in_the_middle_frees_its_place(server):
    with httpx.stream(
        "POST", f"{server.url}/v1/audio/speech", json={**BODY, "input": LONG_TEXT}
    ) as response:
        next(response.iter_raw())
        server.model.go.clear()
    wait_for(lambda: server.engine._open == 0)
    server.model.go.set()


def test_a_request_has_a_deadline():
    with fake_server(options={"timeout_s": 0.3}) as server:
        server.model.go.clear()
        response = httpx.post(f"{server.url}/v1/audio/speech", json=BODY)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "timeout"
        assert server.engine._open == 0
        server.model.go.set()
        # After the first bytes the status is gone: the body ends too early.
        with httpx.stream(
            "POST", f"{server.url}/v1/audio/speech", json={**BODY, "input": LONG_TEXT}
        ) as response:
            pieces = response.iter_raw()
            next(pieces)
            server.model.go.clear()
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                list(pieces)


# === Token, stop ===


def test_a_token_is_asked_for_everywhere_but_for_health():
    with fake_server(options={"token": "s3cret"}) as server:
        paths = ("/v1/models", "/v1/audio/voices", "/metrics", "/openapi.json", "/no")
        for path in paths:
            for word in ("", "Bearer s3cre", "Bearer \xe9", "s3cret"):
                headers = {"authorization": word.encode()}
                response = httpx.get(server.url + path, headers=headers)
                assert response.status_code == 401, path
                assert response.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="s3cret") as client:
            assert client.models.list().data[0].id == "toy"


def test_a_server_of_this_machine_has_no_other_name():
    with fake_server(options={"only_loopback": True}) as server:
        for host, status in [
            ("localhost", 200),
            ("127.0.0.1:8000", 200),
            ("[::1]:8000", 200),
            ("page.example:8000", 403),
            ("localhost.page.example", 403),
            ("[", 403),
        ]:
            headers = {"Host": host}
            response = httpx.get(f"{server.url}/v1/models", headers=headers)
            assert response.status_code == status, host
    error = response.json()["error"]
    assert error["code"] == "unknown_host" and "host='['" in error["message"]


def test_stopping_finishes_what_was_begun_and_refuses_the_rest():
    model = FakeModel()
    with fake_server(model) as server:
        model.go.clear()
        url = f"{server.url}/v1/audio/speech"
        begun, results = in_thread(lambda: httpx.post(url, json=BODY, timeout=WAIT_S))
        assert model.begun.wait(WAIT_S)
        server.http.stop()
        response = httpx.post(url, json=BODY)
        assert response.status_code == 503 and int(response.headers["retry-after"])
        assert response.json()["error"]["code"] == "stopping"
        assert httpx.get(f"{server.url}/healthz").status_code == 503
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        model.go.set()
        begun.join(WAIT_S)
        assert len(results[0].content) == 2 * SAMPLES
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")
