"""The `openai` package, unchanged, against a server with the voice that ships."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from toy_cli import TEXT, generation_config, tiny_config
from toy_serving import processor as toy_processor
from toy_serving import running

from bark_tf import BarkModel, BarkProcessor
from bark_tf.audio.encoding import PCM_RATE_HZ, RESPONSE_FORMATS, Encoder
from bark_tf.serving.engine import Engine
from bark_tf.serving.server import Server

DIGITS = "zero one two three four five six seven eight nine".split()
VOICES = ("default", "kumo", "alpha")
# Too long for one piece.
LONG_TEXT = (
    "one two three four five six seven eight. nine zero one two three four five."
)


@pytest.fixture(scope="module")
def processor():
    return BarkProcessor.from_pretrained()


@pytest.fixture(scope="module")
def model():
    return BarkModel.from_pretrained()


def serve(model, processor, **options):
    return running(Server(Engine(model, processor, **options), "small", timeout_s=3600))


def client_of(url, **options):
    options |= {"api_key": "none", "max_retries": 0}
    return openai.OpenAI(base_url=f"{url}/v1", **options)


@pytest.fixture(scope="module")
def server(model, processor):
    engine = Engine(model, processor, jit_compile=False, num_threads=2)
    with running(Server(engine, "small")) as (url, _), client_of(url) as client:
        yield client, engine


def texts(count):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(DIGITS, rng.integers(1, 5))) for _ in range(count)]


def request(client, number, text):
    return client.audio.speech.create(
        model="tts-1",
        input=text,
        voice=VOICES[number % 3],
        response_format="wav",
        extra_body={"seed": 100 + number},
    ).content


def alone(model, processor, number, text, **options):
    """The same request's audio without a server, as the file that it gets."""
    name = VOICES[number % 3]
    voice = None if name == "default" else name
    out = model.generate_long(
        processor, text, voice=voice, seed=100 + number, **options
    )
    return Encoder("wav", out.sample_rate).add(out.audio, is_last=True)


def test_every_format_has_the_length_of_the_speech(server, model, processor):
    client, _ = server
    audio = model.generate_long(processor, "one", seed=1, jit_compile=False).audio
    for name in RESPONSE_FORMATS:
        with client.audio.speech.with_streaming_response.create(
            model="small",
            input="one",
            voice="default",
            response_format=name,
            extra_body={"seed": 1},
        ) as response:
            data = response.read()
        assert response.headers["content-type"] == RESPONSE_FORMATS[name].media_type
        expected = Encoder(name, model.sampling_rate).add(audio, is_last=True)
        assert len(data) == len(expected), name
        # An Ogg stream has a random serial number.
        assert name == "opus" or data == expected, name


def test_bytes_arrive_before_the_end_is_spoken(server, model, processor):
    client, engine = server
    options = {"voice": "kumo", "seed": 3}
    with client.audio.speech.with_streaming_response.create(
        model="tts-1",
        input=LONG_TEXT,
        response_format="pcm",
        voice="kumo",
        extra_body={"seed": 3},
    ) as response:
        pieces = response.iter_bytes()
        first = next(pieces)
        batches = count_batches(engine)
        data = first + b"".join(pieces)
    assert count_batches(engine) > batches
    out = model.generate_long(processor, LONG_TEXT, jit_compile=False, **options)
    assert len(out.chunks) > 1
    assert len(data) == 2 * round(out.audio.size * PCM_RATE_HZ / out.sample_rate)


def count_batches(engine):
    return engine.metrics.registry.get_sample_value("bark_tf_batch_rows_count")


def test_clients_at_once_get_what_each_would_get_alone(server, model, processor):
    client, engine = server
    said = texts(6)
    before = count_batches(engine)
    with ThreadPoolExecutor(len(said)) as pool:
        got = list(pool.map(request, [client] * len(said), range(len(said)), said))
    assert count_batches(engine) - before < len(said)
    for number, text in enumerate(said):
        expected = alone(model, processor, number, text, jit_compile=False)
        assert got[number] == expected, number


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [1, 2])
def test_32_clients_at_once_with_xla(model, processor, num_threads):
    """Equal to the bit, in batches of all sizes up to 16, one or two at a time."""
    said = texts(32)
    options = {"jit_compile": True, "num_threads": num_threads}
    with (
        serve(model, processor, **options) as (url, _),
        client_of(url, timeout=3600) as client,
        ThreadPoolExecutor(32) as pool,
    ):
        got = list(pool.map(request, [client] * 32, range(32), said))
    for number, text in enumerate(said):
        assert got[number] == alone(model, processor, number, text), number


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_requests():
    """Of a toy model; 32 clients, a format each."""
    greedy = generation_config().replace(semantic_config={"max_new_tokens": 10})
    model = BarkModel(tiny_config(), greedy.replace(coarse_acoustics_config=None))
    names = list(RESPONSE_FORMATS)
    with (
        serve(model, toy_processor(), jit_compile=False) as (url, _),
        client_of(url, timeout=3600) as client,
    ):

        def ask(number):
            return client.audio.speech.create(
                model="tts-1",
                input=TEXT,
                voice="default",
                response_format=names[number % len(names)],
                extra_body={"seed": number},
            ).content

        sizes = []
        with ThreadPoolExecutor(32) as pool:
            for start in range(0, 1000, 100):
                assert all(pool.map(ask, range(start, start + 100)))
                sizes.append(resident_bytes())
    print("resident MB after every 100:", [size >> 20 for size in sizes])
    assert sizes[-1] < 1.05 * sizes[4], sizes


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
