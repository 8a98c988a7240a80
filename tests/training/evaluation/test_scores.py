"""Measures compared with hand computation, and speech with `generate`."""

import math

import numpy as np
import pytest
import toy

from bark_tf.generation.coarse import CoarseWindow
from bark_tf.models.losses import IGNORED_LABEL
from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.training.data.batches import Batches
from bark_tf.training.data.examples import StageExamples
from bark_tf.training.data.shards import Utterance
from bark_tf.training.evaluation.scores import (
    Speaker,
    Voices,
    codec_score,
    mean_scores,
    reconstructions,
    stage_score,
)
from bark_tf.training.options import ExampleOptions
from bark_tf.training.runs.trainers import TRAINERS

WORDS = "zero one two three four five six seven".split()
TEXTS = ["one two", "three", "seven six five four", "zero one", "two"]
PARTS = {"semantic": "semantic", "coarse": "coarse_acoustics", "fine": "fine_acoustics"}


def processor():
    tokenizer = BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", *WORDS])
    limits = {
        "semantic_vocab_size": 20,
        "codebook_size": 8,
        "num_coarse": 2,
        "num_fine": 4,
        "frames_per_token": 75 / 49.9,
    }
    return BarkProcessor(tokenizer, voice_limits=limits, max_length=toy.PROMPT)


def utterances(count=5, seed=0):
    """Recordings of random tokens."""
    rng = np.random.default_rng(seed)
    config = toy.generation_config()
    sizes = CoarseWindow(config.semantic_config, config.coarse_acoustics_config, 8)
    made = []
    for number in range(count):
        length = int(rng.integers(8, 15))
        frames = sizes.num_frames(length)
        made.append(
            Utterance(
                id=f"r{number}",
                text=TEXTS[number],
                speaker="ann",
                text_ids=np.array(rng.integers(2, 10, 3), np.int32),
                semantic=rng.integers(0, 20, length).astype(np.int32),
                codes=rng.integers(0, 8, (4, frames)).astype(np.int32),
            )
        )
    return made


# === Stages ===


def measured(stage, model):
    network = getattr(model, PARTS[stage])
    trainer = TRAINERS[stage](network, model.generation_config)
    examples = StageExamples(
        utterances(),
        stage,
        model.generation_config,
        network.config,
        ExampleOptions(history_probability=0.0),
    )
    return trainer, Batches(examples, 2, shuffle=False)


@pytest.mark.parametrize("stage", list(TRAINERS))
def test_the_loss_is_that_of_training(stage):
    trainer, batches = measured(stage, toy.shared_bark())
    reports = []
    score = stage_score(trainer, batches, lambda *report: reports.append(report))
    losses, weights, right = [], [], 0
    for step in range(batches.steps_per_epoch):
        batch = batches(step)
        loss, weight, _ = trainer.measure(batch)
        losses.append(float(loss) * float(weight))
        weights.append(float(weight))
        counts = batch.get("weights", 1) * (batch["targets"] != IGNORED_LABEL)
        likeliest = np.argmax(np.asarray(trainer(batch)), -1)
        right += np.sum((likeliest == batch["targets"]) * counts)
    assert reports[-1] == (3, 3)
    assert score.targets == sum(weights) > 20
    assert score.loss == pytest.approx(sum(losses) / sum(weights), rel=1e-5)
    assert score.accuracy == pytest.approx(right / sum(weights), abs=1e-6)
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    # A second evaluation gives the same: metrics are reset.
    assert stage_score(trainer, batches) == score


def test_an_uninformed_model_has_the_perplexity_of_its_vocabulary():
    model = toy.bark()
    kernel = model.semantic.lm_head.kernel
    kernel.assign(np.zeros(kernel.shape))
    score = stage_score(*measured("semantic", model))
    assert score.perplexity == pytest.approx(kernel.shape[0], rel=1e-4)


# === The codec ===


def test_reconstructions_are_encoded_and_decoded(rng):
    codec = toy.shared_bark().codec_model
    audios = [rng.normal(0, 0.1, length).astype(np.float32) for length in (99, 64)]
    for count in (None, 4, 2):
        found = list(reconstructions(codec, audios, count))
        for audio, estimate in zip(audios, found, strict=True):
            codes = codec.encode(audio[None], 72.0).numpy()[:, :count]
            expected = codec.decode(codes).numpy()[0, : len(audio)]
            np.testing.assert_array_equal(estimate, expected)
            assert estimate.shape == audio.shape


def test_codec_scores_are_means_with_clipped_si_sdr(rng):
    audios = [rng.normal(0, 0.2, 4_000).astype(np.float32) for _ in range(3)]
    exact = codec_score(audios, audios, 8_000)
    assert exact == (0.0, 0.0, 60.0, 3)
    soft = codec_score(audios, [audios[0], audios[1] / 10, audios[2] / 10], 8_000)
    # A tenth of the amplitude is -20 dB in every band.
    assert soft.mel_db == pytest.approx(40 / 3, rel=1e-3)
    assert soft.si_sdr_db == pytest.approx(60.0)
    silent = codec_score(audios[:1], [np.zeros(4_000)], 8_000)
    assert silent.si_sdr_db == -60.0
    with pytest.raises(ValueError, match="Received: 3 and 1"):
        codec_score(audios, audios[:1], 8_000)
    with pytest.raises(ValueError, match="Received: 0 and 0"):
        codec_score([], [], 8_000)


# === Speech ===


@pytest.fixture(scope="module")
def drawing():
    """A toy Bark that draws its tokens."""
    model = toy.bark()
    draws = {"do_sample": True, "temperature": 0.9}
    model.generation_config = toy.generation_config(
        semantic={**draws, "max_new_tokens": 12, "min_new_tokens": 6},
        coarse=draws,
        fine={"temperature": 0.8},
    )
    return model


def spoken_at_once(model, **options):
    inputs = processor()(TEXTS, return_tensors="np")
    return model.generate(
        **inputs,
        seed=list(range(len(TEXTS))),
        return_dict=True,
        jit_compile=False,
        **options,
    )


def same(audios, expected, lengths):
    assert [len(audio) for audio in audios] == lengths and max(lengths) > 0
    for audio, row in zip(audios, np.asarray(expected), strict=True):
        np.testing.assert_allclose(audio, row[: len(audio)], atol=1e-6)


def test_texts_are_spoken_as_generate_speaks_them(drawing):
    """In batches of two, the last padded, against one batch of `generate`."""
    speaker = Speaker(drawing, processor(), jit_compile=False, batch_size=2)
    reports = []
    spoken = speaker.from_texts(TEXTS, lambda *report: reports.append(report))
    out = spoken_at_once(drawing)
    same(spoken.audios, out.audio, out.lengths)
    ends = (out.semantic.numpy() == toy.EOS).any(axis=1)
    assert spoken.unfinished == (~ends).sum()
    assert reports[-1] == (5, 5)


def test_later_stages_continue_given_tokens_as_generate_does(drawing):
    """From the tokens of `generate`, the later stages give its audio."""
    voice = toy.voice()
    out = spoken_at_once(drawing, history_prompt=voice)
    assert min(out.lengths) > 0
    rows = [
        Utterance(
            id=str(i),
            text=TEXTS[i],
            speaker="ann",
            text_ids=np.zeros(1, np.int32),
            semantic=out.voice[i].semantic_prompt,
            codes=out.voice[i].fine_prompt,
        )
        for i in range(len(TEXTS))
    ]
    speaker = Speaker(drawing, processor(), voice=voice, jit_compile=False)
    same(speaker.from_semantic(rows).audios, out.audio, out.lengths)
    same(speaker.from_coarse(rows).audios, out.audio, out.lengths)
    same(speaker.from_texts(TEXTS).audios, out.audio, out.lengths)


def test_rows_without_audio_are_empty_and_no_warning():
    model = toy.bark()
    kernel = np.array(model.semantic.lm_head.kernel)
    # The end token is always the likeliest.
    model.semantic.lm_head.kernel.assign(np.zeros_like(kernel))
    model.generation_config = toy.generation_config(semantic={"min_eos_p": 0.01})
    speaker = Speaker(model, processor(), jit_compile=False)
    spoken = speaker.from_texts(TEXTS[:2])
    assert [audio.size for audio in spoken.audios] == [0, 0]
    assert spoken.unfinished == 0


# === Voices ===


def test_similarity_is_to_the_other_recordings_of_the_speaker():
    voices = Voices([[2, 0], [0, 3], [0, 1], [5, 5]], ["ann", "ann", "ann", "bob"])
    half = 1 / math.sqrt(2)
    # Without itself: ann's first is beside (0, 2), the others beside (1, 1).
    own = voices.similarity([[2, 0], [0, 3], [0, 1], [5, 5]])
    assert own == pytest.approx((0 + half + half) / 3)
    assert voices.similarity([[0, 1], [1, 0], None, [1, 1]]) == pytest.approx(
        (1 + half + 0) / 3
    )
    assert voices.similarity_of_others([[1, 0]]) is None
    alone = Voices([[1, 0]], ["ann"])
    assert alone.similarity([[1, 0]]) is None
    assert alone.similarity_of_others([[1, 1], [0, 1]]) == pytest.approx(half / 2)


def test_scores_are_averaged_by_name():
    assert mean_scores([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}
    assert mean_scores([]) == {}
