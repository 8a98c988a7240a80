"""Asks a server with an export of the shipped voice for what `generate` returns.

python check_server.py grpc://HOST:PORT http://HOST:PORT
"""

import sys

import numpy as np

from bark_tf import BarkModel, BarkProcessor
from bark_tf.serving.client import Client

TEXTS = ["four zero eight", "hello", "yes"]
VOICES = [None, "kumo", "alpha"]
# The server's TensorFlow may round otherwise than the one here.
TOLERANCE = 1e-3


def check(client, model, processor):
    inputs = processor(TEXTS, voice_preset=VOICES, return_tensors="np")
    for temperature in (0.0, 0.7):
        options = {"seed": 7, "temperature": temperature}
        expected = model.generate(
            **inputs, **options, do_sample=True, return_dict=True, jit_compile=False
        )
        spoken = client.speak(TEXTS, voice=VOICES, **options)
        for row, one in enumerate(spoken):
            audio = np.asarray(expected.audio)[row, : expected.lengths[row]]
            np.testing.assert_allclose(one.audio, audio, atol=TOLERANCE)
    pieces = np.concatenate(list(client.stream(TEXTS[0], voice="kumo", seed=7)))
    whole = client.speak(TEXTS[0], voice="kumo", seed=7).audio
    np.testing.assert_allclose(pieces, whole, atol=TOLERANCE)
    for wrong in ({"voice": "zulu"}, {"temperature": -1}, {"max_new_tokens": 10_000}):
        try:
            client.speak("hello", seed=7, **wrong)
        except ValueError as error:
            print(f"refused: {error}")
        else:
            raise SystemExit(f"{wrong} is not refused")


def main(*addresses):
    model, processor = BarkModel.from_pretrained(), BarkProcessor.from_pretrained()
    for address in addresses:
        with Client(address) as client:
            check(client, model, processor)
        print(f"{address}: right")


main(*sys.argv[1:])
