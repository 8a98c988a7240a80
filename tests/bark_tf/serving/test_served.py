"""The client and an export, over the real protocols on loopback."""

import numpy as np
import pytest
import toy
from serving_standins import GrpcStandIn, RestStandIn, predict_with
from toy_export import FILTERS, VOICES, Rows, processor

from bark_tf.serving.client import Client

TEXT = "three! one"


@pytest.fixture(scope="module")
def predict(exported):
    return predict_with(exported)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GrpcStandIn, RestStandIn])
@pytest.mark.parametrize("voice", ["", "kumo"])
def test_a_stream_by_stages_is_the_audio_of_generate(predict, kind, voice):
    rows = Rows([TEXT], [voice], 7, (0.9, 0.7, 0.5))
    expected = rows.generate(toy.shared_bark(), processor(), **FILTERS)
    heat = dict(
        zip(("semantic", "coarse", "fine"), map(float, rows.temperatures), strict=True)
    )
    options = {f"{stage}_temperature": value for stage, value in heat.items()}
    options |= {"min_new_tokens": 30, "max_new_tokens": 40, "seed": 7}
    server = kind(predict)
    try:
        with Client(server.address) as client:
            spoken = client.speak(TEXT, voice=voice, **options)
            pieces = list(client.stream(TEXT, voice=voice, **options))
            with pytest.raises(ValueError, match=r"^voice must be .* Received: zulu"):
                client.speak(TEXT, voice="zulu")
            assert client.voices() == sorted(VOICES)
    finally:
        server.stop()
    np.testing.assert_allclose(spoken.audio, expected.audio[0], atol=1e-6)
    assert len(pieces) > 1
    # A window whose prompt is read anew rounds otherwise than one with a cache.
    np.testing.assert_allclose(np.concatenate(pieces), expected.audio[0], atol=1e-5)


@pytest.mark.slow
def test_tokens_and_codes_go_on_as_a_voice(predict):
    rows = Rows([TEXT], ["kumo"], 7, 0.0)
    expected = rows.generate(toy.shared_bark(), processor(), **FILTERS)
    inputs = dict(processor()(TEXT, return_tensors="np"))
    voice = {**predict("voices", {"voice": np.array(["kumo"])})}
    out = predict("speak_tokens", {**inputs, **voice, **rows.options()})
    np.testing.assert_array_equal(out["audio"], expected.audio)
    for name in ("semantic", "coarse", "fine"):
        np.testing.assert_array_equal(out[name], getattr(expected, name))
    more = {
        "semantic_prompt": out["semantic"],
        "num_prompt_tokens": out["num_semantic"],
        "coarse_prompt": out["coarse"],
        "fine_prompt": out["fine"],
        "num_prompt_frames": out["num_frames"],
    }
    after = predict("speak_tokens", {**inputs, **more, **rows.options()})
    bark = toy.shared_bark()
    options = {"min_new_tokens": 30, "max_new_tokens": 40, "temperature": 0.0}
    wanted = bark.generate(
        **inputs,
        history_prompt=expected.voice,
        seed=7,
        jit_compile=False,
        **{**FILTERS, **options},
    )
    np.testing.assert_array_equal(after["audio"], wanted)


@pytest.mark.slow
def test_encode_gives_the_codes_of_the_codec_row_by_row(predict, rng):
    codec, audio = toy.shared_bark().codec_model, rng.normal(size=(2, 50)).astype("f4")
    lengths = np.int32([50, 31])
    out = predict("encode", {"audio": audio, "num_samples": lengths})
    assert out["num_frames"].tolist() == [13, 8]
    for row, length in enumerate(lengths):
        codes = codec.encode(audio[row : row + 1, :length], num_codebooks=4)[0]
        np.testing.assert_array_equal(out["fine"][row, :, : codes.shape[1]], codes)
    frames = {"fine": out["fine"], "num_frames": out["num_frames"]}
    whole = predict("decode", {**frames, "start": np.int32([0, 0])})
    rest = predict("decode", {**frames, "start": np.int32([9, 8])})
    assert whole["lengths"].tolist() == [52, 32] and rest["lengths"].tolist() == [16, 0]
    np.testing.assert_allclose(rest["audio"][0], whole["audio"][0, 36:], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_mask": np.ones((1, 3), np.int32)}, "attention_mask must have"),
        ({"input_ids": np.int32([[14] * 8])}, "input_ids must lie between 0 and 13"),
        ({"num_prompt_tokens": np.int32([3])}, "num_prompt_tokens must be at most"),
        ({"num_prompt_frames": np.int32([1])}, "num_prompt_frames must be at most"),
        (
            {
                "semantic_prompt": np.zeros((1, 2), np.int32),
                "num_prompt_tokens": np.int32([2]),
            },
            "a prompt needs semantic tokens and frames",
        ),
        ({"coarse_prompt": np.zeros((1, 2, 3), np.int32)}, "coarse_prompt and fine_"),
        ({"semantic_prompt": np.zeros((2, 0), np.int32)}, "all inputs must have"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(predict, changes, words):
    rows = Rows([TEXT], [""], 7, 1.0)
    inputs = dict(processor()(TEXT, return_tensors="np"))
    voice = predict("voices", {"voice": np.array([""])})
    given = {**inputs, **voice, **rows.options(), **changes}
    with pytest.raises(ValueError, match=rf"assertion failed: \[{words}"):
        predict("speak_tokens", given)
