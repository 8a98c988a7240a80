"""A fake model behind a real queue and a real HTTP server, for tests of serving.

Functions import the server, because every test run loads this file, with or without the
packages that the server needs.
"""

import contextlib
import threading
import time
from types import SimpleNamespace

import numpy as np
from toy_cli import RATE, SPECIAL, VOICES, WORDS, generation_config, voice

from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer

WORD_S = 0.4
WAIT_S = 30  # what takes longer counts as hanging


def wait_for(claim):
    """Waits until a function returns something true."""
    end = time.monotonic() + WAIT_S
    while not claim():
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.01)


class FakeModel:
    """Says noise: a row's depends on its seed, text and voice alone.

    Attributes:
        go: Speech takes until this event is set.
        batches: The seeds of every batch.
        failing: Seeds whose batches fail.
        is_mute: Whether all rows are empty.
    """

    sampling_rate = RATE

    def __init__(self):
        self.generation_config = generation_config()
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()
        self.batches, self.options, self.failing, self.is_mute = [], [], set(), False

    def generate(
        self, input_ids, history_prompt, *, attention_mask, seed, progress, **options
    ):
        self.batches.append(seed)
        self.options.append(options)
        self.begun.set()
        while not self.go.wait(0.01):
            progress("semantic", 0, 1)
        if self.failing & set(seed):
            raise ValueError("a secret text")
        counts = [0 if self.is_mute else int(n) for n in attention_mask.sum(1)]
        lengths = [round(n * WORD_S * RATE) for n in counts]
        audio = np.zeros((len(seed), max(lengths)), np.float32)
        for row, one in enumerate(seed):
            key = [one % 2**32, int(input_ids[row].sum()), history_prompt[row] is None]
            noise = np.random.default_rng(key).uniform(-0.5, 0.5, lengths[row])
            audio[row, : lengths[row]] = noise
        codes = np.arange(50)
        return SimpleNamespace(
            audio=audio,
            lengths=lengths,
            semantic=np.tile(np.append(codes, 10_000), (len(seed), 1)),
            coarse=np.tile(np.arange(75), (len(seed), 2, 1)),
            voice=[voice(50) if length else None for length in lengths],
        )


def processor():
    """200 words, three voices."""
    tokenizer = BarkTokenizer.from_vocabulary(SPECIAL + WORDS)
    return BarkProcessor(tokenizer, {name: voice() for name in VOICES})


@contextlib.contextmanager
def running(server):
    """Runs a `Server` on a free port of the loopback address.

    Yields:
        (its URL, `HttpServer`).
    """
    from bark_tf.serving.running import HttpServer, bind

    with bind("127.0.0.1", 0) as bound:
        http = HttpServer(server.gate)
        bound.listen()
        thread = threading.Thread(target=http.run, args=([bound],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", http
        finally:  # a thread that runs on would keep the process alive
            if not server.gate.is_closing:
                http.stop()
            thread.join(WAIT_S)
        assert not thread.is_alive(), "the server hangs"


@contextlib.contextmanager
def fake_server(model=None, *, options=None, **engine):
    """A running server of a fake model.

    Yields:
        Its `url`, `http` server, `server`, `model` and `engine`.
    """
    from bark_tf.serving.engine import Engine
    from bark_tf.serving.server import Server

    model = model or FakeModel()
    engine = Engine(model, processor(), **engine)
    server = Server(engine, "toy", **(options or {}))
    with running(server) as (url, http):
        try:
            yield SimpleNamespace(
                url=url, http=http, server=server, model=model, engine=engine
            )
        finally:
            model.go.set()
