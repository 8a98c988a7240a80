import numpy as np
import pytest
import soundfile
from toy_cli import RATE, SPECIAL, TEXT, WORDS, FakeModel, voice

from bark_tf.bark import BarkModel
from bark_tf.processor import BarkProcessor
from bark_tf.speaker import COMPILED_PARAMS
from bark_tf.text.tokenizer import BarkTokenizer

LONG_TEXT = " ".join(f"{' '.join(WORDS[i : i + 20])}." for i in range(0, 100, 20))


class FakeBark(FakeModel, BarkModel):
    """A `BarkModel` that speaks noise."""

    _source = None


@pytest.fixture
def processor():
    tokenizer = BarkTokenizer.from_vocabulary(SPECIAL + WORDS)
    return BarkProcessor(tokenizer, {"anna": voice(), "ben": voice(30)})


@pytest.fixture
def model(processor):
    model = FakeBark()
    model._processor = processor
    return model


# === The method ===


def test_a_speech_tells_what_it_is(model, tmp_path):
    speech = model.speak(TEXT, "anna", seed=7)
    assert speech.audio.dtype == np.float32 and speech.audio.shape == (1.2 * RATE,)
    assert speech.duration == 1.2 and speech.voice is not None
    assert repr(speech) == "Speech(1.20 s of audio at 24000 Hz, seed 7)"
    assert "<audio controls" in speech._repr_html_()
    assert model.options["seed"] == 7 and model.options["history_prompt"] == voice()
    for suffix, kind in [("mp3", "MP3"), ("opus", "OGG"), ("wav", "WAV")]:
        path = speech.save(tmp_path / f"x.{suffix}")
        info = soundfile.info(path)
        assert (info.format, info.frames) == (kind, speech.audio.size)
    with pytest.raises(ValueError, match=r"must end in \.wav.*\.opus.*'x\.txt'"):
        speech.save("x.txt")


def test_a_long_text_says_where_its_pieces_are(model):
    speech = model.speak(LONG_TEXT)
    assert len(speech.chunks) == len(model.calls) > 1
    assert " ".join(chunk.text for chunk in speech.chunks) == LONG_TEXT
    starts = [chunk.start_sample / RATE for chunk in speech.chunks]
    assert starts[1] == pytest.approx(speech.chunks[0].seconds + 0.25)


def test_several_texts_have_their_own_voices_and_seeds(model):
    texts = ["word1 word2", TEXT]
    spoken = model.speak(texts, [None, "ben"], seed=[7, 8])
    assert [speech.seed for speech in spoken] == [7, 8]
    assert [call["history_prompt"] for call in model.calls] == [None, voice(30)]
    model.calls.clear()
    model.speak(texts, "anna", seed=7, progress=False)
    assert [call["seed"] for call in model.calls] == [7, 7]
    with pytest.raises(ValueError, match=r"list of seeds must have.*2 texts.*: 1"):
        model.speak(texts, seed=[7])
    assert model.speak([]) == []


def test_a_model_without_a_checkpoint_needs_a_processor(processor):
    model = FakeBark()
    with pytest.raises(ValueError, match="not loaded from a checkpoint"):
        model.speak(TEXT)
    assert model.speak(TEXT, processor=processor).duration


def test_large_models_are_compiled(model):
    for number, is_compiled in [(COMPILED_PARAMS, True), (10, False)]:
        model.num_params = number
        model.speak(TEXT)
        assert model.calls[-1]["jit_compile"] is is_compiled
    model.speak(TEXT, jit_compile=True)
    assert model.calls[-1]["jit_compile"] is True


def test_progress_is_a_callable_or_a_bar_where_someone_watches(model, capsys):
    seen = []
    model.speak(TEXT, progress=lambda *report: seen.append(report))
    assert ("chunks", 1, 1) in seen
    model.speak(TEXT)
    assert capsys.readouterr().err == ""
    model.speak(TEXT, progress=True)
    assert "chunks: 100%" in capsys.readouterr().err
