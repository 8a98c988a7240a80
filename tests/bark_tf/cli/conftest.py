import pytest
from toy_cli import (
    SPECIAL,
    VOICES,
    WORDS,
    FakeModel,
    generation_config,
    tiny_config,
    voice,
)

from bark_tf.bark import BarkModel
from bark_tf.cli.arguments import MODEL_VARIABLE
from bark_tf.cli.main import main
from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A whole checkpoint: random weights, 197 words, three voices."""
    directory = tmp_path_factory.mktemp("checkpoint")
    BarkModel(tiny_config(), generation_config()).save_pretrained(directory)
    BarkProcessor(
        BarkTokenizer.from_vocabulary(SPECIAL + WORDS), {n: voice() for n in VOICES}
    ).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def loaded(checkpoint):
    return BarkModel.from_pretrained(checkpoint)


@pytest.fixture
def speak(checkpoint, loaded, monkeypatch, tmp_path):
    """`bark-tf speak ARGUMENTS` with the real model, which is loaded only once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "bark_tf.bark.BarkModel.from_pretrained", lambda *_, **__: loaded
    )

    def speak(*arguments):
        return main(["speak", "--model", checkpoint, "--no-xla", *arguments])

    return speak


@pytest.fixture
def fake(checkpoint, monkeypatch, tmp_path):
    """A fake model behind every name; the processor is real."""
    model = FakeModel()

    def from_pretrained(name, **options):
        model.loaded = (name, options)
        return model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MODEL_VARIABLE, checkpoint)
    monkeypatch.setattr("bark_tf.bark.BarkModel.from_pretrained", from_pretrained)
    return model
