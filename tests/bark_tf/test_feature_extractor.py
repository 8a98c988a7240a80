"""Recordings as EnCodec reads them."""

import json

import numpy as np
import pytest

from bark_tf.feature_extractor import EncodecFeatureExtractor


@pytest.fixture
def recordings(rng):
    return [rng.normal(size=n).astype("float32") for n in (5, 9)]


def test_recordings_become_one_batch(recordings):
    extract = EncodecFeatureExtractor(padding_value=2.0)
    inputs = extract(recordings, sampling_rate=24_000)
    assert inputs.input_values.shape == (2, 1, 9)
    assert inputs.input_values.dtype == np.float32
    np.testing.assert_array_equal(inputs.input_values[0, 0, :5], recordings[0])
    np.testing.assert_array_equal(inputs.input_values[0, 0, 5:], [2] * 4)
    assert inputs.padding_mask.tolist() == [[1] * 5 + [0] * 4, [1] * 9]
    options = {"padding": "max_length", "max_length": 7, "truncation": True}
    inputs = extract(recordings, **options)
    np.testing.assert_array_equal(inputs.padding_mask.sum(axis=1), [5, 7])
    np.testing.assert_array_equal(inputs.input_values[1, 0], recordings[1][:7])
    for one in (recordings[0], recordings[0].tolist()):
        inputs = extract(one, return_tensors="tf")
        np.testing.assert_array_equal(inputs["input_values"][0, 0], recordings[0])
    assert extract(recordings, return_tensors=None)["padding_mask"][1] == [1] * 9


def test_two_channels(rng):
    extract = EncodecFeatureExtractor(feature_size=2)
    audio = rng.normal(size=(2, 6)).astype("float32")
    np.testing.assert_array_equal(extract(audio).input_values, audio[None])
    with pytest.raises(ValueError, match=r"\(2, samples\). Received: \(6,\)"):
        extract(audio[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate": 16_000}, "resample them first. Received: .*16000"),
        ({"padding": False}, "padding must be"),
        ({"truncation": True}, "need max_length"),
        ({"return_tensors": "pt"}, "bark-tf has no PyTorch"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        EncodecFeatureExtractor()(np.zeros(3), **options)
    with pytest.raises(ValueError, match=r"\(samples,\). Received: \(2, 3\)"):
        EncodecFeatureExtractor()(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="without chunks"):
        EncodecFeatureExtractor(chunk_length_s=1.0)


def test_its_file(tmp_path):
    extract = EncodecFeatureExtractor(sampling_rate=16_000, chunk_length_s=None)
    extract.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert values["feature_extractor_type"] == "EncodecFeatureExtractor"
    assert "model_type" not in values
    again = EncodecFeatureExtractor.from_pretrained(tmp_path)
    assert again == extract and again.to_dict() == values


@pytest.mark.reference
def test_it_is_that_of_transformers(recordings, tmp_path):
    import transformers

    transformers.EncodecFeatureExtractor().save_pretrained(tmp_path)
    ours = EncodecFeatureExtractor.from_pretrained(tmp_path)
    ours.save_pretrained(tmp_path)
    theirs = transformers.EncodecFeatureExtractor.from_pretrained(tmp_path)
    for audio in (recordings, recordings[0]):
        expected = theirs(audio, return_tensors="np", sampling_rate=24_000)
        found = ours(audio, sampling_rate=24_000)
        assert expected.keys() == found.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
