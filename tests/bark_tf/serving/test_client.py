"""The client, against stand-ins that answer like a small export."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from serving_standins import GrpcStandIn, RestStandIn

from bark_tf.serving.client import GAP_S, Client

KINDS = {"grpc": GrpcStandIn, "rest": RestStandIn}
RATE, HOP, BOOKS, WINDOW = 1000, 20, 4, 3
VOICES = {"": 0, "alpha": 5, "kumo": 7}


class FakeBark:
    """Answers as an export does; audio tells text, voice, seed and temperature.

    Each letter of a text is a semantic token, a frame and HOP samples.
    """

    def __init__(self):
        self.asked = []
        self.failures = []  # raised by the next calls
        self.lock = threading.Lock()

    def __call__(self, signature, inputs):
        with self.lock:
            self.asked.append((signature, inputs))
            failure = self.failures.pop() if self.failures else None
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:
            time.sleep(failure)
        return getattr(self, signature)(**inputs)

    def speak(self, text, voice, seed, stream, **sampling):
        voice = self.voices(voice)
        rows = []
        for i, one in enumerate(text):
            ids = np.frombuffer(one, np.uint8)[None].astype(np.int32)
            heat = sampling["fine_temperature"][i]
            fine = np.repeat(ids[:, None], BOOKS, axis=1)
            first = voice["fine_prompt"][i : i + 1, 0, :1].sum()
            rows.append(self._audio(fine, first, seed[i] + stream[i], heat)[0])
        audio = np.zeros((len(rows), max(map(len, rows))), np.float32)
        for place, row in zip(audio, rows, strict=True):
            place[: len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int32)
        return {
            "audio": audio,
            "lengths": lengths,
            "sampling_rate": np.full(len(rows), RATE),
        }

    def _audio(self, fine, voice, seed, heat):
        value = fine[:, 0] / 256 + 0.001 * (voice + seed % 100) + 0.1 * heat
        return np.repeat(value, HOP, axis=1).astype(np.float32)

    def voices(self, voice):
        words = [one.decode() if isinstance(one, bytes) else one for one in voice]
        if set(words) - set(VOICES):
            raise ValueError(f"voice must be empty or one of {list(VOICES)}")
        rows = len(words)
        prompt = np.array([[VOICES[word]] for word in words], np.int32)
        if not prompt.any():
            prompt = prompt[:, :0]
        names = np.array([[name.encode() for name in VOICES if name]] * rows, object)
        return {
            "names": names,
            "semantic_prompt": prompt,
            "coarse_prompt": np.repeat(prompt[:, None], 2, axis=1),
            "fine_prompt": np.repeat(prompt[:, None], BOOKS, axis=1),
            "sampling_rate": np.full(rows, RATE, np.int32),
            **{f"{s}_temperature": np.full(rows, 0.5, np.float32) for s in STAGES},
            "min_new_tokens": np.full(rows, 0, np.int32),
            "max_new_tokens": np.full(rows, 300, np.int32),
        }

    def tokenize(self, text):
        ids = np.frombuffer(text[0], np.uint8)[None].astype(np.int32)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def semantic(self, input_ids, **_):
        padded = np.pad(input_ids, [(0, 0), (0, 2)])
        return {"semantic": padded, "num_semantic": np.array([input_ids.shape[1]])}

    def coarse_window(self, semantic, num_semantic, coarse, **_):
        start = coarse.shape[2]
        new = semantic[:, start : min(start + WINDOW, num_semantic[0])]
        new = np.repeat(new[:, None], 2, axis=1)
        return {"coarse": new, "num_frames": num_semantic}

    def fine(self, coarse, num_frames, fine_prompt, seed, stream, temperature, **_):
        self.state = fine_prompt[0, 0, :1].sum(), seed[0] + stream[0], temperature[0]
        total = num_frames[0]
        ends = np.array([[0, total // 2, total]], np.int32)
        return {"fine": np.repeat(coarse[:, :1], BOOKS, axis=1), "boundaries": ends}

    def decode(self, fine, start, num_frames):
        audio = self._audio(fine, *self.state)[:, start[0] * HOP : num_frames[0] * HOP]
        return {"audio": audio, "lengths": num_frames - start}


STAGES = ("semantic", "coarse", "fine")


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


def test_words_of_the_server_reach_the_caller(client):
    with pytest.raises(ValueError, match=r"^voice must be empty or one of"):
        client.speak("four", voice="nobody", seed=1)
    with pytest.raises(ValueError, match="temperature, semantic_temperature"):
        client.speak("four", temprature=0.5)


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
