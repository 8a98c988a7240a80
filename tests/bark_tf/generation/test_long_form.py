"""Long text: chunks, the voice from one to the next, checks and second attempts."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from bark_tf import BarkConfig, BarkGenerationConfig, BarkModel, BarkProcessor
from bark_tf.bark import BarkOutput
from bark_tf.generation.finite import NotFiniteError
from bark_tf.generation.long_form import (
    GAP_S,
    HISTORY_TOKENS,
    LAST_TOKENS,
    PARAGRAPH_GAP_S,
    PROBLEMS,
    generate_long,
    stream_long,
)
from bark_tf.text.marks import read_marks
from bark_tf.text.sentences import estimate_seconds
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.voices.presets import VoicePreset

RATE = 24_000
SEMANTIC_HZ, FRAMES_HZ = 49.9, 75
END = 10_000

# Three sentences of a good 8 s each, so that each is a chunk of its own.
SENTENCES = [f"{name} " + "word " * 24 + "end." for name in ("One", "Two", "Three")]
TEXT = " ".join(SENTENCES)
SECONDS = estimate_seconds(SENTENCES[0])
NUM_TOKENS = round(SECONDS * SEMANTIC_HZ)

DRAWING = BarkGenerationConfig(
    semantic_config={"do_sample": True}, coarse_acoustics_config={"do_sample": True}
)


def speech(seconds=SECONDS, start=0, has_end=True, **changes):
    """What `generate` returns for healthy speech, or with one thing changed."""
    rng = np.random.default_rng(start)
    semantic = rng.integers(0, 10_000, round(seconds * SEMANTIC_HZ))
    frames = round(seconds * FRAMES_HZ)
    parts = {
        "audio": rng.uniform(-0.5, 0.5, frames * RATE // FRAMES_HZ),
        "semantic": semantic,
        "fine": rng.integers(0, 1024, (8, frames)),
        **changes,
    }
    fine, semantic = parts["fine"], parts["semantic"]
    voice = VoicePreset(semantic, fine[:2], fine) if len(semantic) else None
    if has_end:
        semantic = np.append(semantic, END)
    audio = np.asarray(parts["audio"], np.float32)
    return BarkOutput(
        audio=np.pad(audio, (0, 7))[None],  # a row may go on after its length
        lengths=[audio.size],
        semantic=semantic[None],
        coarse=fine[None, :2],
        fine=fine[None],
        voice=voice,
        sampling_rate=RATE,
    )


class FakeModel:
    """Returns the given outputs in turn, then healthy speech; keeps every call."""

    def __init__(self, *outputs, config=DRAWING, warning=None):
        self.generation_config, self.sampling_rate = config, RATE
        self.outputs, self.calls, self.warning = list(outputs), [], warning

    def generate(self, **options):
        self.calls.append(SimpleNamespace(**options))
        if self.warning is not None:
            warnings.warn(self.warning, UserWarning, stacklevel=2)
        output = self.outputs.pop(0) if self.outputs else None
        if isinstance(output, Exception):
            raise output
        return output or speech(start=options["seed"] % 2**32)

    @property
    def histories(self):
        return [call.history_prompt for call in self.calls]

    @property
    def seeds(self):
        return [call.seed for call in self.calls]


@pytest.fixture(scope="module")
def processor():
    words = ["[PAD]", "[UNK]", "No", "One", "Two", "Three", "word", "end", ".", "*"]
    return BarkProcessor(BarkTokenizer.from_vocabulary(words))


def make_voice(num_tokens=500, value=5):
    frames = round(num_tokens * FRAMES_HZ / SEMANTIC_HZ)
    return VoicePreset(
        np.full(num_tokens, value), np.full((2, frames), 1), np.full((8, frames), 1)
    )


# === Passages ===


def test_every_voice_continues_from_itself(processor):
    ann, ben = make_voice(value=5), make_voice(value=6)
    one, two, three = SENTENCES
    text = f"{one}\n[voice: ben] {two}\n[voice: same] {three}\n[voice:] {one}"
    model = FakeModel()
    voices = {"ben": ben, "same": ann}
    out = generate_long(
        model, processor, read_marks(text), voice=ann, voices=voices, seed=1
    )
    assert model.histories[:2] == [ann, ben] and len(out.chunks) == 4
    opened = [history.semantic_prompt[0] for history in model.histories]
    assert opened == [5, 6, 5, 5]
    # The third follows the first, and the last follows the third.
    last = [history.semantic_prompt[-1] for history in model.histories[2:]]
    takes = [speech(start=one.seed % 2**32).voice for one in out.chunks]
    assert last == [takes[0].semantic_prompt[-1], takes[2].semantic_prompt[-1]]


def test_pauses_of_marks_are_silent_and_exact(processor):
    text = f"[pause 0.5] {SENTENCES[0]} [pause 0.125] {SENTENCES[1]} [pause 1]"
    out = generate_long(FakeModel(), processor, read_marks(text), seed=1)
    first, second = out.chunks
    assert first.start_sample == 0.5 * RATE
    end = first.start_sample + round(first.seconds * RATE)
    assert second.start_sample == end + 0.125 * RATE
    last = second.start_sample + round(second.seconds * RATE)
    assert out.audio.size == last + RATE
    for begin, stop in [(0, RATE // 2), (end, second.start_sample), (last, None)]:
        assert not out.audio[begin:stop].any()


def test_a_voice_that_is_missing_is_told(processor):
    with pytest.raises(ValueError, match=r"without \['eve'\]"):
        generate_long(FakeModel(), processor, read_marks("[voice: eve] One"))
    with pytest.raises(ValueError, match=r"text must be a string. Received: list"):
        generate_long(FakeModel(), processor, ["One", "Two"])


# === Chunks and audio ===


def test_every_chunk_is_said_once_and_in_order(processor):
    model = FakeModel()
    out = generate_long(model, processor, TEXT, seed=1)
    assert [chunk.text for chunk in out.chunks] == SENTENCES
    for call, sentence in zip(model.calls, SENTENCES, strict=True):
        expected = processor(sentence, return_tensors="np")
        np.testing.assert_array_equal(call.input_ids, expected.input_ids)
        np.testing.assert_array_equal(call.attention_mask, expected.attention_mask)
        assert call.return_dict is True
    assert out.audio.dtype == np.float32 and out.audio.ndim == 1
    assert out.sample_rate == out.sampling_rate == RATE
    summary = r"LongFormOutput\(\d+\.\d\d s of audio at 24000 Hz, 3 chunks, seed 1\)"
    assert re.fullmatch(summary, repr(out))
    assert out._repr_html_().count("<audio") == 1


def test_chunks_start_where_the_report_says_and_pauses_are_silent(processor):
    text = f"{SENTENCES[0]} {SENTENCES[1]}\n\n{SENTENCES[2]}"
    out = generate_long(FakeModel(), processor, text, seed=1)
    lengths = [round(chunk.seconds * RATE) for chunk in out.chunks]
    pauses = [round(GAP_S * RATE), round(PARAGRAPH_GAP_S * RATE), 0]
    position = 0
    for chunk, length, pause in zip(out.chunks, lengths, pauses, strict=True):
        assert chunk.start_sample == position
        inner = out.audio[position + 1000 : position + length - 1000]
        np.testing.assert_array_equal(
            inner, speech(start=chunk.seed % 2**32).audio[0, 1000 : length - 1000]
        )
        silence = out.audio[position + length : position + length + pause]
        assert silence.size == pause and not silence.any()
        position += length + pause
    assert position == out.audio.size


def test_joints_do_not_click(processor):
    """Audio that is cut off at full height jumps by 1."""
    loud = [speech(audio=np.ones(int(SECONDS * RATE))) for _ in SENTENCES]
    out = generate_long(FakeModel(*loud), processor, TEXT, seed=1)
    jumps = np.abs(np.diff(out.audio, prepend=0, append=0))
    assert out.audio.max() == 1
    assert jumps.max() < 0.02


def test_pauses_can_be_chosen(processor):
    out = generate_long(FakeModel(), processor, TEXT, seed=1, gap_s=0)
    assert out.audio.size == sum(round(chunk.seconds * RATE) for chunk in out.chunks)


def test_what_cannot_be_said_is_left_out(processor):
    model = FakeModel()
    out = generate_long(model, processor, f"* * *\n\n{SENTENCES[0]}\n\n***\n\n—")
    assert [chunk.text for chunk in out.chunks] == SENTENCES[:1]


@pytest.mark.parametrize("text", ["", " \n", "* * *\n\n***", "\x00"])
def test_nothing_to_say_is_an_error(processor, text):
    model = FakeModel()
    with pytest.raises(ValueError, match="something to say"):
        generate_long(model, processor, text)
    assert not model.calls


def test_half_a_surrogate_pair_is_an_error_before_any_work(processor):
    model = FakeModel()
    with pytest.raises(ValueError, match="lone surrogate"):
        generate_long(model, processor, TEXT + " wo\ud800rd.")
    assert not model.calls


def test_a_lower_limit_of_tokens_makes_shorter_chunks(processor):
    """Chunks of 10 s cannot end within 5 s, however often they are tried."""
    limit = round(5 * SEMANTIC_HZ)
    model = FakeModel(*(speech(4) for _ in range(20)))
    out = generate_long(
        model, processor, TEXT, max_attempts=1, semantic_max_new_tokens=limit
    )
    assert len(out.chunks) > 6
    assert all(estimate_seconds(chunk.text) < 4.5 for chunk in out.chunks)
    assert all(call.semantic_max_new_tokens == limit for call in model.calls)


# === The voice ===


def test_without_a_voice_each_chunk_goes_on_from_the_last(processor):
    model = FakeModel()
    out = generate_long(model, processor, TEXT, seed=1)
    voices = [speech(start=seed % 2**32).voice for seed in model.seeds]
    assert NUM_TOKENS > HISTORY_TOKENS
    assert model.histories == [None, *voices[:2]]
    assert out.voice == voices[2]


def test_with_a_voice_it_comes_first_and_the_last_chunk_after_it(processor):
    model, voice = FakeModel(), make_voice()
    out = generate_long(model, processor, TEXT, voice=voice, seed=1)
    voices = [speech(start=seed % 2**32).voice for seed in model.seeds]
    assert model.histories[0] == voice
    for history, last in zip([*model.histories[1:], out.voice], voices, strict=True):
        history.validate()
        tokens = history.semantic_prompt
        assert tokens.size == HISTORY_TOKENS
        np.testing.assert_array_equal(
            tokens[-LAST_TOKENS:], last.semantic_prompt[-LAST_TOKENS:]
        )
        assert (tokens[:-LAST_TOKENS] == 5).all()
        frames = round(LAST_TOKENS * FRAMES_HZ / SEMANTIC_HZ)
        np.testing.assert_array_equal(
            history.fine_prompt[:, -frames:], last.fine_prompt[:, -frames:]
        )
        assert (history.fine_prompt[:, :-frames] == 1).all()
        assert (history.coarse_prompt[:, :-frames] == 1).all()


def test_the_given_voice_alone(processor):
    model, voice = FakeModel(), make_voice()
    out = generate_long(model, processor, TEXT, voice=voice, continue_from="voice")
    assert model.histories == [voice] * 3
    assert out.voice == voice


def test_the_last_chunk_alone_with_a_voice(processor):
    model, voice = FakeModel(), make_voice()
    generate_long(model, processor, TEXT, voice=voice, continue_from="last", seed=1)
    voices = [speech(start=seed % 2**32).voice for seed in model.seeds]
    assert model.histories == [voice, *voices[:2]]


@pytest.mark.parametrize("mode", ["voice", "both"])
def test_without_a_voice_the_first_chunk_is_the_voice(processor, mode):
    model = FakeModel()
    generate_long(model, processor, TEXT, continue_from=mode, seed=1)
    first = speech(start=model.seeds[0] % 2**32).voice
    assert model.histories[:2] == [None, first]
    third = model.histories[2]
    if mode == "voice":
        assert third == first
    else:
        num_first = HISTORY_TOKENS - LAST_TOKENS
        np.testing.assert_array_equal(
            third.semantic_prompt[:num_first], first.semantic_prompt[-num_first:]
        )


def test_a_short_chunk_is_preceded_by_what_came_before(processor):
    """Half a second of "No." is too little to hold a voice."""
    text = f"{SENTENCES[0]}\n\nNo.\n\n{SENTENCES[1]}"
    short = speech(0.5)
    model = FakeModel(speech(start=3), short)
    generate_long(model, processor, text)
    first, history = speech(start=3).voice, model.histories[2]
    num_short = short.voice.semantic_prompt.size
    num_first = HISTORY_TOKENS - num_short
    expected = [first.semantic_prompt[-num_first:], short.voice.semantic_prompt]
    np.testing.assert_array_equal(history.semantic_prompt, np.concatenate(expected))
    history.validate()


def test_a_voice_by_name(processor):
    processor = BarkProcessor(processor.tokenizer, {"anna": make_voice()})
    for name in ("voice", "voice_preset", "history_prompt"):
        model = FakeModel()
        generate_long(model, processor, TEXT, **{name: "anna"})
        assert model.histories[0] == make_voice()


# === Checks ===

NOISE = np.random.default_rng(0)
CYCLE = NOISE.integers(0, 10_000, 40)
BAD = {
    "too long": lambda: speech(SECONDS * 2.5 + 4),
    "too short": lambda: speech(2),
    "no end": lambda: speech(has_end=False),
    "stuck": lambda: speech(semantic=np.resize(CYCLE, NUM_TOKENS)),
    "silent": lambda: speech(audio=np.full(int(SECONDS * RATE), 1e-4)),
    "empty": lambda: speech(0),
}
assert tuple(BAD) == PROBLEMS


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_bad_take_is_tried_again_with_another_seed(processor, problem):
    model = FakeModel(BAD[problem](), BAD[problem]())
    out = generate_long(model, processor, SENTENCES[0], seed=4)
    (chunk,) = out.chunks
    assert chunk.attempts == len(set(model.seeds)) == 3
    assert chunk.seed == model.seeds[2]
    assert chunk.problem is None


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_that_stays_is_reported(processor, problem):
    model = FakeModel(*(BAD[problem]() for _ in range(2)))
    with pytest.warns(UserWarning, match=f"Chunk 1 of 1 is '{problem}' after 2") as w:
        out = generate_long(model, processor, SENTENCES[0], max_attempts=2)
    assert len(w) == 1
    (chunk,) = out.chunks
    assert (chunk.problem, chunk.attempts) == (problem, 2)


def test_a_take_of_no_numbers_is_tried_again_and_is_an_error_if_it_stays(processor):
    failure = NotFiniteError("Audio must be finite")
    model = FakeModel(failure, BAD["silent"](), failure)
    with pytest.warns(UserWarning, match="is 'silent' after 3"):
        generate_long(model, processor, SENTENCES[0], max_attempts=3)
    assert len(set(model.seeds)) == 3
    with pytest.raises(NotFiniteError, match="must be finite"):
        model = FakeModel(failure, failure)
        generate_long(model, processor, SENTENCES[0], max_attempts=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"semantic": np.full(NUM_TOKENS, 7)},
        {"semantic": np.where(NOISE.random(NUM_TOKENS) < 0.9, 7, CYCLE[0])},
        # Healthy for 4 s, then one second over and over.
        {
            "semantic": np.concatenate(
                [NOISE.integers(0, 10_000, 200), np.resize(CYCLE, NUM_TOKENS - 200)]
            )
        },
        {"fine": np.resize(CYCLE % 1024, (8, round(SECONDS * FRAMES_HZ)))},
    ],
)
def test_loops_are_found(processor, changes):
    model = FakeModel(speech(**changes))
    with pytest.warns(UserWarning, match="'stuck'"):
        generate_long(model, processor, SENTENCES[0], max_attempts=1)


def test_what_speech_does_is_no_loop(processor):
    """Two seconds of silence are one token again and again; so are long vowels."""
    semantic = np.array(speech().voice.semantic_prompt)
    semantic[100:200] = 7
    semantic[250:280] = 9
    model = FakeModel(speech(semantic=semantic))
    (chunk,) = generate_long(model, processor, SENTENCES[0]).chunks
    assert chunk.attempts == 1


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2])
@pytest.mark.parametrize("text", ["No.", "One word.", SENTENCES[0]])
def test_fast_and_slow_speakers_are_taken_as_they_are(processor, text, factor):
    model = FakeModel(speech(max(0.4, factor * estimate_seconds(text))))
    (chunk,) = generate_long(model, processor, text).chunks
    assert (chunk.attempts, chunk.problem) == (1, None)


def test_short_text_with_long_babble_is_too_long(processor):
    model = FakeModel(speech(10))
    with pytest.warns(UserWarning, match="'too long'"):
        generate_long(model, processor, "No.", max_attempts=1)


def test_the_best_of_bad_takes_is_used(processor):
    takes = [speech(30), speech(25), BAD["stuck"](), BAD["empty"]()]
    model = FakeModel(*takes)
    with pytest.warns(UserWarning, match="'too long'"):
        out = generate_long(model, processor, SENTENCES[0], max_attempts=4)
    assert out.chunks[0].seed == model.seeds[1]
    assert out.chunks[0].seconds == pytest.approx(25, abs=0.1)


def test_a_bad_chunk_is_not_gone_on_from(processor):
    model = FakeModel(speech(start=3), BAD["stuck"]())
    with pytest.warns(UserWarning, match="Chunk 2 of 3"):
        generate_long(model, processor, TEXT, max_attempts=1)
    assert model.histories[2] == model.histories[1] == speech(start=3).voice


@pytest.mark.parametrize(("problem", "goes_on"), [("too long", True), ("stuck", False)])
def test_with_nothing_else_a_chunk_of_odd_length_is_gone_on_from(
    processor, problem, goes_on
):
    """Another voice in the second chunk would be worse."""
    bad = BAD[problem]()
    model = FakeModel(bad)
    with pytest.warns(UserWarning, match="Chunk 1 of 3"):
        generate_long(model, processor, TEXT, max_attempts=1)
    assert model.histories[1] == (bad.voice if goes_on else None)


def test_generates_own_warning_of_an_empty_row_is_not_passed_on(processor):
    """An empty take is retried; only a remaining problem is reported."""
    words = "The text-to-semantic stage ended rows [0] at once: their audio is empty"
    out = generate_long(FakeModel(warning=words), processor, TEXT)
    assert len(out.chunks) == 3
    with pytest.warns(UserWarning, match="another"):
        generate_long(FakeModel(warning="another"), processor, TEXT)


def test_greedy_takes_are_not_repeated(processor):
    """They would all be the same."""
    model = FakeModel(BAD["stuck"](), config=BarkGenerationConfig())
    with pytest.warns(UserWarning, match="after 1"):
        generate_long(model, processor, SENTENCES[0], max_attempts=5)
    model = FakeModel(BAD["stuck"](), config=BarkGenerationConfig())
    generate_long(model, processor, SENTENCES[0], do_sample=True)
    assert len(model.calls) == 2


# === Seeds, streams, reports ===


def test_the_same_seed_gives_the_same_takes(processor):
    def run(seed):
        model = FakeModel(BAD["stuck"]())
        return generate_long(model, processor, TEXT, seed=seed), model.seeds

    (first, seeds), (again, seeds_again) = run(7), run(np.int64(7))
    other_seeds = run(8)[1]
    assert seeds == seeds_again and len(seeds) == 4
    assert seeds[0] == 7, "a short text must sound as from generate"
    assert len({*seeds, *other_seeds}) == 8
    assert all(0 <= seed < 2**64 for seed in seeds)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.chunks == again.chunks


def test_without_a_seed_every_run_is_another_and_can_be_repeated(processor):
    first = generate_long(FakeModel(), processor, TEXT)
    second = generate_long(FakeModel(), processor, TEXT)
    assert first.seed != second.seed
    again = generate_long(FakeModel(), processor, TEXT, seed=first.seed)
    np.testing.assert_array_equal(first.audio, again.audio)


def test_a_stream_is_the_whole_in_pieces(processor):
    whole = generate_long(FakeModel(), processor, TEXT, seed=2)
    pieces = list(stream_long(FakeModel(), processor, TEXT, seed=2))
    np.testing.assert_array_equal(
        np.concatenate([audio for audio, _ in pieces]), whole.audio
    )
    assert tuple(report for _, report in pieces) == whole.chunks


def test_a_stream_gives_a_chunk_before_it_makes_the_next(processor):
    model = FakeModel()
    stream = stream_long(model, processor, TEXT)
    assert len(model.calls) == 0
    next(stream)
    assert len(model.calls) == 1


def test_progress_and_reports(processor):
    stages, reports = [], []
    model = FakeModel()
    out = generate_long(
        model,
        processor,
        TEXT,
        progress=lambda *stage: stages.append(stage),
        on_chunk=reports.append,
    )
    assert stages == [("chunks", done, 3) for done in range(4)]
    assert tuple(reports) == out.chunks
    model.calls[0].progress("semantic", 1, 2)
    assert stages[-1] == ("semantic", 1, 2)


def test_other_options_go_to_generate(processor):
    model = FakeModel()
    options = {"semantic_temperature": 0.6, "compat": "hf", "jit_compile": False}
    generate_long(model, processor, SENTENCES[0], **options)
    assert vars(model.calls[0]).items() >= options.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": None}, "text must be a string"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**64}, "seed must be"),
        ({"seed": [1]}, "seed must be"),
        ({"seed": True}, "seed must be"),
        ({"max_attempts": 0}, "max_attempts must be"),
        ({"max_attempts": 1.5}, "max_attempts must be"),
        ({"gap_s": -1}, "gap_s must be"),
        ({"gap_s": 1e9}, r"gap_s must be in \[0, 60\]"),
        ({"paragraph_gap_s": float("nan")}, "paragraph_gap_s must be"),
        ({"continue_from": "first"}, "continue_from must be"),
        ({"voice": [None]}, "one voice"),
        ({"voice": "nobody"}, "no voice 'nobody'"),
        ({"voice": "a", "voice_preset": "b"}, "one argument.*voice and voice_preset"),
        ({"voice": "a", "history_prompt": "b"}, "Received: voice and history_prompt"),
        ({"history_prompt": "nobody"}, "no voice 'nobody'"),
        ({"semantic_num_return_sequences": 2}, "num_return_sequences must be 1"),
        ({"temprature": 1}, "no option 'temprature'"),
        ({"generation_config": {"temprature": 1}}, "no option 'temprature'"),
    ],
)
@pytest.mark.parametrize("function", [generate_long, stream_long])
def test_errors_come_before_any_work(processor, function, options, message):
    model, arguments = FakeModel(), {"text": TEXT, **options}
    with pytest.raises(ValueError, match=message):
        function(model, processor, **arguments)
    assert not model.calls


# === A real model ===


def test_the_tiny_model(processor):
    """Random weights never end by themselves; the rest is as with trained ones."""
    small_windows = BarkGenerationConfig(
        semantic_config={"do_sample": True},
        coarse_acoustics_config={"do_sample": True, "sliding_window_len": 18},
        fine_acoustics_config={
            "max_fine_input_length": 64,
            "max_fine_history_length": 32,
        },
    )
    model = BarkModel(BarkConfig.preset("tiny"), small_windows)
    options = {"semantic_max_new_tokens": 6, "jit_compile": False}
    text = "One word.\n\nTwo word."
    with pytest.warns(UserWarning, match="'no end' after 1"):
        out = generate_long(model, processor, text, seed=3, max_attempts=1, **options)
    first, second = out.chunks
    assert [first.text, second.text] == ["One word.", "Two word."]
    assert second.start_sample == 9 * 320 + round(PARAGRAPH_GAP_S * RATE)  # 6 tokens
    assert np.isfinite(out.audio).all()

    def alone(chunk, voice):
        inputs = processor(chunk.text, return_tensors="np")
        return model.generate(
            **inputs, history_prompt=voice, seed=chunk.seed, return_dict=True, **options
        )

    one = alone(first, None)
    two = alone(second, one.voice)
    assert out.voice == one.voice
    for chunk, expected in ((first, one), (second, two)):
        samples = out.audio[chunk.start_sample :][: 9 * 320]
        expected = expected.audio[0].numpy()
        assert expected.any()
        np.testing.assert_array_equal(samples[120:-120], expected[120:-120])
