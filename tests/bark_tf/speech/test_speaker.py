import numpy as np
import pytest
from toy_cli import RATE, SPECIAL, TEXT, WORDS, FakeModel, voice

from bark_tf.bark import BarkModel
from bark_tf.processor import BarkProcessor
from bark_tf.speech.result import Speech
from bark_tf.speech.speaker import COMPILED_PARAMS
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


def test_a_text_becomes_a_speech(model):
    speech = model.speak(TEXT, "anna", seed=7)
    assert isinstance(speech, Speech) and speech.sampling_rate == RATE
    assert speech.audio.dtype == np.float32 and speech.audio.shape == (1.2 * RATE,)
    assert speech.seed == 7 and speech.voice is not None
    assert model.options["seed"] == 7 and model.options["history_prompt"] == voice()


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


def test_all_texts_are_checked_before_the_first_is_spoken(model):
    for bad in ("word1 [pause -1]", "[voice: eve] word1", "...", None):
        with pytest.raises(ValueError):
            model.speak([TEXT, bad])
    with pytest.raises(ValueError, match=r"text must be a string. Received: NoneType"):
        model.speak(None)
    assert model.calls == []
    seen = []
    model.speak([TEXT, TEXT], progress=lambda *report: seen.append(report))
    assert [one[1:] for one in seen if one[0] == "texts"] == [(0, 2), (1, 2), (2, 2)]


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


# === Marks ===


def test_marks_change_the_voice_and_pause(model):
    text = "word1 word2 [pause 2]\n[voice: ben] word3\n[voice:] word4"
    speech = model.speak(text, "anna", seed=1)
    histories = [call["history_prompt"] for call in model.calls]
    assert histories[:2] == [voice(), voice(30)] and len(histories) == 3
    # The first voice goes on from where it was: its own words stand at the end.
    assert len(histories[2].semantic_prompt) > len(voice().semantic_prompt)
    starts = [chunk.start_sample / RATE for chunk in speech.chunks]
    assert starts == pytest.approx([0, 0.8 + 2, 0.8 + 2 + 0.4 + 0.25])


@pytest.mark.parametrize(
    ("text", "marks"), [("1[pause 2]", False), (r"1\[pause 2]", True)]
)
def test_marks_may_be_text(model, text, marks):
    with pytest.warns(UserWarning, match="'pause'"):
        (chunk,) = model.speak(text, marks=marks, seed=1).chunks
    assert chunk.text == "1[pause 2]"


def test_a_mark_names_listed_voices_and_aliases_never_files(model, tmp_path):
    path = str(voice(40).save(tmp_path / "me.npz"))
    text = f"word1\n[voice: {path}] word2"
    for refused in (text, text.replace(".npz", ""), "\n[voice: nobody] word1"):
        with pytest.raises(ValueError, match=r"^line 2: .*bark-tf voices.*aliases="):
            model.speak(refused)
    with pytest.raises(ValueError, match="Did you mean 'anna'"):
        model.speak("[voice: annna] word1")
    assert model.calls == []
    model.speak("[voice: me] word1", aliases={"me": path})
    assert model.calls[0]["history_prompt"] == voice(40)
    model.speak(text, path)  # the voice of the call may be named
    assert model.calls[1]["history_prompt"] == voice(40)


def test_a_wrong_mark_is_told_before_the_work(model):
    with pytest.raises(ValueError, match=r"^line 2: a pause is written"):
        model.speak("word1\n[pause 0,5]")
    assert model.calls == []


# === Loudness ===


def test_a_loudness_is_kept_for_every_text(model):
    quiet, loud = (model.speak([TEXT], loudness=lufs)[0] for lufs in (-40, -20))
    ratio = np.abs(loud.audio).max() / np.abs(quiet.audio).max()
    assert ratio == pytest.approx(10, rel=0.1)
    model.calls.clear()
    with pytest.raises(ValueError, match="in LUFS"):
        model.speak(TEXT, loudness=16)
    assert model.calls == []
