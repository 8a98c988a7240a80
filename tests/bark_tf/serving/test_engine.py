import numpy as np
import pytest
from toy_cli import RATE, TEXT, VOICES, WORDS, voice
from toy_serving import FakeModel, processor

from bark_tf.generation.long_form import generate_long
from bark_tf.serving.engine import DEFAULT_VOICE, Busy, Engine

LONG_TEXT = ". ".join(" ".join(WORDS[n : n + 8]) for n in range(0, 48, 8)) + "."


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def engine(model):
    engine = Engine(model, processor(), max_requests=2, aliases={"alloy": VOICES[0]})
    yield engine
    model.go.set()
    engine.close()


def test_a_long_text_is_spoken_as_generate_long_speaks_it(engine, model):
    utterance = engine.start(LONG_TEXT, VOICES[1], seed=5, temperature=0.5)
    pieces, ends = zip(*utterance, strict=True)
    assert len(pieces) > 2 and ends == (False,) * (len(pieces) - 1) + (True,)
    one_row = {"temperature": 0.5, "voice": VOICES[1], "seed": 5}

    class Alone:
        generation_config, sampling_rate = model.generation_config, RATE

        def generate(self, *, seed, history_prompt, progress, **options):
            report = lambda *_: None  # noqa: E731
            return FakeModel().generate(
                history_prompt=[history_prompt], seed=[seed], progress=report, **options
            )

    alone = generate_long(Alone(), processor(), LONG_TEXT, **one_row)
    np.testing.assert_array_equal(np.concatenate(pieces), alone.audio)
    assert utterance.num_samples == alone.audio.size
    assert all(options["temperature"] == 0.5 for options in model.options)
    utterance.close()


def test_marks_of_strangers_name_listed_voices_and_pause_a_little(engine, tmp_path):
    text = "word1 [pause 1]\n[voice: alloy] word2\n[voice: default] word3"
    (first, _), (second, _), (third, _) = engine.start(text, VOICES[1], seed=1)
    assert first.size == 1.4 * RATE and second.size == 0.65 * RATE and third.size
    path = voice().save(tmp_path / "me.npz")
    for name in (path, str(path)[:-4], "nobody", "../me"):
        with pytest.raises(ValueError, match=r"^line 1: voice must be one of"):
            engine.start(f"[voice: {name}] word1", DEFAULT_VOICE)
    with pytest.raises(ValueError, match=r"pauses of at most 60 s in all.*: 61 s"):
        engine.start("word1 [pause 60] word2 [pause 1]", DEFAULT_VOICE)
    with pytest.raises(ValueError, match=r"^line 1: a pause is written"):
        engine.start("word1 [pause 999999]", DEFAULT_VOICE)
    assert engine._open == 1  # of the first text; nothing else took a place


def test_places_are_bounded_and_come_back(engine):
    first = engine.start(TEXT, DEFAULT_VOICE)
    with pytest.raises(ValueError, match="something to say"):
        engine.start("...", DEFAULT_VOICE)
    second = engine.start(TEXT, DEFAULT_VOICE)
    with pytest.raises(Busy, match="Try again in 1 s") as busy:
        engine.start(TEXT, DEFAULT_VOICE)
    assert busy.value.retry_after_s == 1
    first.close()
    first.close()  # frees one place only
    third = engine.start(TEXT, DEFAULT_VOICE)
    with pytest.raises(Busy):
        engine.start(TEXT, DEFAULT_VOICE)
    second.close()
    third.close()


def test_only_listed_voices_are_loaded(engine, model, tmp_path, monkeypatch):
    """The processor also takes the path of a file, which a client must not name."""
    monkeypatch.chdir(tmp_path)
    voice().save("secret.npz")
    known = ", ".join([*sorted(VOICES), DEFAULT_VOICE, "alloy"])
    for name in ("secret", "secret.npz", str(tmp_path / "secret.npz")):
        with pytest.raises(ValueError, match=r"^voice must be one of") as error:
            engine.start(TEXT, name)
        assert known in str(error.value)
    with pytest.raises(ValueError, match="voice='nobody'"):
        Engine(model, processor(), aliases={"alloy": "nobody"})


def test_warming_up_speaks_at_every_batch_size(engine, model):
    engine.warm_up()
    assert [len(seeds) for seeds in model.batches] == 2 * [1, 2, 4, 8, 16]


def test_a_voice_itself_speaks_as_its_name_does(engine, model):
    audio = []
    for one in (VOICES[0], voice()):
        utterance = engine.start(TEXT, one, seed=5)
        assert utterance.progress["stage"] == "waiting"
        audio.append(np.concatenate([piece for piece, _ in utterance]))
        utterance.close()
    np.testing.assert_array_equal(*audio)
    assert utterance.progress == {
        "stage": "waiting",
        "done": 0,
        "total": 1,
        "piece": 1,
        "pieces": 1,
        "ahead": 0,
    }


@pytest.mark.parametrize(("threads", "most"), [(2, 8), (32, 1)])
def test_batches_at_the_same_time_share_the_rows(model, threads, most):
    engine = Engine(model, processor(), num_threads=threads)
    model.go.set()
    engine.warm_up()
    assert max(len(seeds) for seeds in model.batches) == most
    assert len(engine.queue._threads) * most == engine.max_batch
    engine.close()
