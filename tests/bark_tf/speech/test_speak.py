import os
from pathlib import Path

import pytest
from toy_cli import SPECIAL, TEXT, WORDS, FakeModel

import bark_tf
from bark_tf import hub
from bark_tf.bark import BarkModel
from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer


class FakeBark(FakeModel, BarkModel):
    pass


@pytest.fixture
def loaded(monkeypatch):
    """What was loaded: (name, options), by a fake `BarkModel.from_pretrained`."""
    loaded = []

    def from_pretrained(name, **options):
        loaded.append((name, options))
        model = FakeBark()
        model._source = (name, {})
        return model

    monkeypatch.setattr(BarkModel, "from_pretrained", from_pretrained)
    bark_tf.unload()
    yield loaded
    bark_tf.unload()


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = BarkTokenizer.from_vocabulary(SPECIAL + WORDS)
    BarkProcessor(tokenizer).save_pretrained(tmp_path)
    return tmp_path


def test_a_model_is_loaded_once_and_freed(loaded, checkpoint):
    seen = []
    speech = bark_tf.speak(
        TEXT, model=checkpoint, seed=7, progress=lambda *report: seen.append(report)
    )
    assert isinstance(speech, bark_tf.Speech) and speech.seed == 7
    assert ("load", 1, 1) in seen and ("chunks", 1, 1) in seen
    assert len(bark_tf.speak([TEXT, TEXT], model=str(checkpoint))) == 2
    none = {"dtype": None, "quantize": None}
    assert loaded == [(str(checkpoint), none)]
    bark_tf.speak(TEXT, model=checkpoint, dtype="bfloat16", quantize="int8")
    bark_tf.speak(TEXT, model=checkpoint)
    assert loaded[1:] == [(str(checkpoint), {"dtype": "bfloat16", "quantize": "int8"})]
    bark_tf.unload()
    bark_tf.speak(TEXT, model=checkpoint)
    assert len(loaded) == 3


def test_a_checkpoint_that_has_changed_is_loaded_again(loaded, checkpoint):
    """In a notebook: train, speak, train on, speak."""
    bark_tf.speak(TEXT, model=checkpoint)
    os.utime(next(checkpoint.iterdir()), ns=(0, 2**62))
    bark_tf.speak(TEXT, model=checkpoint)
    bark_tf.speak(TEXT, model=checkpoint)
    assert len(loaded) == 2


def test_without_a_name_the_environment_or_the_shipped_voice_speaks(
    loaded, checkpoint, monkeypatch
):
    monkeypatch.delenv(hub.MODEL_VARIABLE, raising=False)
    bark_tf.speak("four two")
    monkeypatch.setenv(hub.MODEL_VARIABLE, str(checkpoint))
    bark_tf.speak(TEXT)
    names = [Path(name) for name, _ in loaded]
    assert names == [hub.SHIPPED_CHECKPOINT, checkpoint]


def test_a_model_in_memory_speaks_itself(loaded, checkpoint):
    model = FakeBark()
    processor = BarkProcessor.from_pretrained(checkpoint)
    assert bark_tf.speak(TEXT, model=model, processor=processor).duration
    assert loaded == [] and len(model.calls) == 1
    with pytest.raises(ValueError, match="Received: a BarkModel, dtype='bfloat16'"):
        bark_tf.speak(TEXT, model=model, dtype="bfloat16")
