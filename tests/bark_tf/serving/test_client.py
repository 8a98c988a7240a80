"""The client, against stand-ins that answer like a small export."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from serving_standins import HOP, RATE, FakeBark, GrpcStandIn, RestStandIn

from bark_tf.serving.client import GAP_S, Client
from bark_tf.text.marks import read_marks

KINDS = {"grpc": GrpcStandIn, "rest": RestStandIn}


@pytest.fixture(scope="module", params=KINDS)
def server(request):
    bark = FakeBark()
    one = KINDS[request.param](bark)
    one.bark = bark
    yield one
    one.stop()


@pytest.fixture
def client(server):
    with Client(server.address, timeout=20) as one:
        yield one
    server.bark.asked.clear()


def test_speaks(client, server, tmp_path):
    spoken = client.speak("four", voice="alpha", seed=3)
    assert spoken.sampling_rate == RATE and spoken.audio.shape == (4 * HOP,)
    np.testing.assert_allclose(spoken.audio[0], ord("f") / 256 + 0.008 + 0.05, 1e-5)
    spoken.save(tmp_path / "four.wav")
    assert soundfile.info(tmp_path / "four.wav").frames == 4 * HOP

    few = client.speak(["four", "two"], voice=["alpha", None], seed=3, temperature=0)
    np.testing.assert_allclose(few[1].audio[0], ord("t") / 256 + 0.004, 1e-5)
    assert [one.audio.size for one in few] == [4 * HOP, 3 * HOP]
    few = client.speak(["four", "two"], seed=[3, 2**63 + 2], fine_temperature=0)
    signature, sent = server.bark.asked[-1]
    assert signature == "speak"
    assert sent["stream"].tolist() == [0, 0]
    assert sent["seed"].astype(np.int64).view(np.uint64).tolist() == [3, 2**63 + 2]
    np.testing.assert_allclose(sent["semantic_temperature"], 0.5)
    assert client.voices() == ["alpha", "kumo"]


def test_streams_stage_by_stage(client):
    seen = []
    pieces = list(
        client.stream("four", voice="alpha", seed=3, progress=lambda *x: seen.append(x))
    )
    assert [piece.size for piece in pieces] == [2 * HOP, 2 * HOP]
    spoken = client.speak("four", voice="alpha", seed=3)
    np.testing.assert_allclose(np.concatenate(pieces), spoken.audio, atol=1e-6)
    assert ("coarse", 3, 4) in seen and seen[-1] == ("chunks", 1, 1)


def test_a_long_text_keeps_the_first_voice(client, server):
    sentence = "It was a long and quiet evening by the sea and nobody said a word. "
    audio = np.concatenate(list(client.stream(sentence * 6, seed=3)))
    prompts = [x["fine_prompt"] for name, x in server.bark.asked if name == "fine"]
    assert len(prompts) > 2 and np.size(prompts[0]) == 0
    assert all(prompt[0, 0, 0] == ord("I") for prompt in prompts[1:])
    gaps = audio.size - HOP * sum(
        len(x["text"][0]) for name, x in server.bark.asked if name == "tokenize"
    )
    assert gaps == (len(prompts) - 1) * GAP_S * RATE
    with pytest.raises(ValueError, match="something to say"):
        list(client.stream(" * * * "))


def test_marks_change_voices_and_pause(client, server):
    text = "[pause 0.5] four\n[voice: a] two [pause 1]\n[voice:]\nsix"
    chunks = []
    pieces = client.stream(
        read_marks(text), voices={"a": "alpha"}, seed=3, on_chunk=chunks.append
    )
    audio = np.concatenate(list(pieces))
    assert [chunk.text for chunk in chunks] == ["four", "two", "six"]
    starts = [chunk.start_sample for chunk in chunks]
    assert (
        starts
        == np.cumsum([0.5 * RATE, 4 * HOP + GAP_S * RATE, 3 * HOP + RATE]).tolist()
    )
    assert [chunk.seconds * RATE for chunk in chunks] == [4 * HOP, 3 * HOP, 3 * HOP]
    assert audio.size == starts[-1] + 3 * HOP and not audio[: RATE // 2].any()
    fine = [x["fine_prompt"] for name, x in server.bark.asked if name == "fine"]
    # A random voice, alpha, and the random voice again.
    assert np.size(fine[0]) == 0 and np.size(fine[1]) > 0
    assert fine[2][0, 0, 0] == ord("f")
    assert list(client.stream(read_marks("[voice: kumo] two"), seed=3))
    with pytest.raises(ValueError, match="voice must be empty or one of"):
        list(client.stream(read_marks("[voice: a] two"), seed=3))


def test_words_of_the_server_reach_the_caller(client):
    with pytest.raises(ValueError, match=r"^voice must be empty or one of"):
        client.speak("four", voice="nobody", seed=1)
    with pytest.raises(ValueError, match="temperature, semantic_temperature"):
        client.speak("four", temprature=0.5)
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\*\*64\)"):
        client.speak("four", seed=-1)


def test_tries_again(client, server):
    client.voices()
    server.bark.failures += [ConnectionError("loading"), ConnectionError("loading")]
    asked = len(server.bark.asked)
    assert client.speak("four", seed=None).audio.size
    sent = [x["seed"][0] for name, x in server.bark.asked[asked:]]
    assert len(sent) == 3 and len(set(sent)) == 1  # all attempts mean the same

    client.attempts = 2
    server.bark.failures += [ConnectionError("loading")] * 2
    with pytest.raises(ConnectionError, match="2 attempts: loading"):
        client.speak("four")
    server.bark.failures += [RuntimeError("no such kernel")]
    asked = len(server.bark.asked)
    with pytest.raises(RuntimeError, match="no such kernel"):
        client.speak("four")
    assert len(server.bark.asked) == asked + 1


def test_gives_up_in_time(client, server):
    client.voices()
    client.timeout = 0.3
    server.bark.failures += [2]
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not answer within 0\.3 s"):
        client.speak("four")
    server.bark.failures += [ConnectionError("loading")] * 5
    client.attempts = 50
    with pytest.raises((ConnectionError, TimeoutError)):
        client.speak("four")
    assert time.monotonic() - began < 1.8
    server.bark.failures.clear()


def test_an_answer_without_its_outputs_is_an_error(client, server, monkeypatch):
    client.voices()
    for answer in (
        {"audio": np.zeros(3)},
        {"audio": np.zeros((2, 3)), "x": np.zeros(2)},
    ):
        monkeypatch.setattr(server.bark, "speak", lambda answer=answer, **_: answer)
        with pytest.raises(RuntimeError, match=r"must answer speak with 1 rows of"):
            client.speak("four")


def test_a_window_without_frames_ends_the_stream(client, server, monkeypatch):
    empty = {"coarse": np.zeros((1, 2, 0), np.int32), "num_frames": np.array([4])}
    monkeypatch.setattr(server.bark, "coarse_window", lambda **_: empty)
    with pytest.raises(RuntimeError, match="empty window"):
        list(client.stream("four"))


@pytest.mark.parametrize("kind", KINDS)
def test_requests_at_once_and_a_server_that_restarts(kind):
    """200 requests of 40 clients; the server dies and comes back among them."""
    bark = FakeBark()
    server = KINDS[kind](bark)
    clients = [Client(server.address, timeout=30, attempts=12) for _ in range(40)]

    def speak(number):
        if number == 60:
            again.set()
        text = f"number {number}"
        return number, clients[number % 40].speak(text, seed=number).audio

    again = threading.Event()
    with ThreadPoolExecutor(40) as pool:
        answers = pool.map(speak, range(200))
        again.wait()
        server.stop()
        time.sleep(0.3)
        server = KINDS[kind](bark, server.port)
        for number, audio in answers:
            np.testing.assert_array_equal(
                audio, Client.speak(clients[0], f"number {number}", seed=number).audio
            )
    for client in clients:
        client.close()
    server.stop()
