"""Training examples: the same sequences that generation builds.

`bark_tf.generation` makes them, so each stage trains on the same positions, windows,
offsets and padding that it meets at inference.

Axes: B batch, P positions of the semantic prompt, L length, W frames of a fine window,
K codebooks.

Differs: public notebooks train on other layouts; tests are named after their mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_tf.config import (
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.generation.arrays import NUMPY
from bark_tf.generation.coarse import (
    CoarseRows,
    CoarseWindow,
    coarse_rows,
    goes_on,
    window_prompt,
    window_start,
)
from bark_tf.generation.fine import (
    history_length,
    num_windows,
    window_at,
    window_buffer,
)
from bark_tf.generation.histories import Histories, histories_of
from bark_tf.generation.semantic import prompt_ids
from bark_tf.models.losses import IGNORED_LABEL
from bark_tf.tokens import interleave

from ..options import ExampleOptions
from .shards import Utterance

# Minimum length of a cropped voice, unless the recording is shorter.
MIN_HISTORY_TOKENS = 32
# Shares of a recording that `changed_tempo` changes.
_TEMPO_PARTS = 0.2, 0.6
NO_PLACE = np.float32(-1)

Voice = Mapping[str, np.ndarray]
Example = dict[str, np.ndarray]


# === Histories ===


def voice_of(
    utterance: Utterance, window: CoarseWindow, rng: np.random.Generator | None = None
) -> Voice:
    """Makes a voice from a recording.

    Args:
        utterance: The recording.
        window: `CoarseWindow` of the model.
        rng: Crops at random; None keeps all of it.

    Returns:
        `semantic_prompt`, `coarse_prompt` and `fine_prompt`, of matching lengths.
    """
    start, count = 0, len(utterance.semantic)
    if rng is not None:
        least = min(MIN_HISTORY_TOKENS, count)
        length = int(rng.integers(least, count + 1))
        start = int(rng.integers(count - length + 1))
        count = length
    frame = round(start * window.ratio / window.coarse.n_coarse_codebooks)
    frames = utterance.codes[:, frame : frame + window.num_frames(count)]
    return {
        "semantic_prompt": utterance.semantic[start : start + count],
        "coarse_prompt": frames[: window.coarse.n_coarse_codebooks],
        "fine_prompt": frames,
    }


def history_of(
    voice: Voice | None, num_coarse: int = 1, num_fine: int = 1
) -> Histories:
    """`Histories` of one row; the counts give the codebooks if there is no voice."""
    return histories_of([voice], num_coarse, num_fine)


# === Semantic ===


def semantic_room(config: BarkSemanticGenerationConfig, block_size: int) -> int:
    """The most targets of a semantic example, the end token included."""
    room = block_size - config.max_input_semantic_length
    return min(room, config.max_new_tokens)


def semantic_example(
    text_ids: np.ndarray,
    semantic: np.ndarray,
    voice: Voice | None,
    config: BarkSemanticGenerationConfig,
    block_size: int,
) -> Example:
    """Builds a semantic example: prompt and target tokens.

    Args:
        text_ids: int (n,), without offset and padding.
        semantic: int (N,).
        voice: History, or None.
        config: Generation configuration.
        block_size: Positions of the network.

    Returns:
        `text` and `history`, int32 (P,), whose embeddings are summed, and `targets`,
        int32 (L,): the tokens and the end token, cut to the available positions. The
        network reads the prompt, the infer token and all targets but the last.
    """
    ids = np.asarray(text_ids, np.int32)[None]
    text, past = prompt_ids(NUMPY, ids, None, history_of(voice), config)
    targets = np.append(semantic, config.eos_token_id)
    most = semantic_room(config, block_size)
    return {
        "text": text[0],
        "history": past[0],
        "targets": targets[:most].astype(np.int32),
    }


def changed_tempo(
    count: int, rng: np.random.Generator, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a part of some tokens at another tempo, by repeating and skipping tokens.

    Args:
        count: Number of tokens, the end token included.
        rng: Chooses the part and the tempo.
        most: The most tokens to return.

    Returns:
        Which token to read at each position, int (n,); and whether it is outside the
        part, bool (n,).
    """
    length = int(rng.uniform(*_TEMPO_PARTS) * count)
    start = int(rng.integers(-length // 2, count - length))
    start, end = max(start, 0), start + length
    tempo = 2 ** rng.uniform(-1, 1)
    part = np.arange(start, end, tempo).astype(np.int64)
    order = np.concatenate([np.arange(start), part, np.arange(end, count)])[:most]
    places = np.arange(len(order))
    return order, (places < start) | (places >= start + len(part))


# === Coarse ===


class Segment(NamedTuple):
    """Range of coarse tokens that generation writes after one prompt."""

    start: int
    end: int  # exclusive


def coarse_row(
    semantic: np.ndarray, voice: Voice | None, window: CoarseWindow
) -> CoarseRows:
    """`CoarseRows` of one recording; `semantic` is int (N,)."""
    history = history_of(voice, window.coarse.n_coarse_codebooks)
    tokens = np.asarray(semantic, np.int32)[None]
    return coarse_rows(NUMPY, tokens, np.array([len(semantic)]), history, window)


def coarse_segments(
    row: CoarseRows, num_tokens: int, window: CoarseWindow
) -> list[Segment]:
    """Splits `num_tokens` coarse tokens where generation reads a new prompt."""
    steps = np.arange(0, num_tokens, window.coarse.sliding_window_len)
    starts = window_start(NUMPY, steps, row.num_history, window).tolist()
    num_past, segments, last = int(row.num_past[0]), [], None
    for step, start in zip(steps.tolist(), starts, strict=True):
        end = min(step + window.coarse.sliding_window_len, num_tokens)
        if segments and goes_on(start, last, step, num_past, window):
            segments[-1] = segments[-1]._replace(end=end)
        else:
            segments.append(Segment(step, end))
            last = start
    return segments


def coarse_example(
    row: CoarseRows,
    codes: np.ndarray,
    segment: Segment,
    window: CoarseWindow,
    past_weight: float = 0.0,
) -> Example:
    """Builds a coarse example from one segment.

    Args:
        row: `coarse_row` of the recording.
        codes: int (coarse codebooks or more, T).
        segment: One of `coarse_segments`.
        window: `CoarseWindow`.
        past_weight: Loss weight of the recording's tokens before the segment.

    Returns:
        `ids`, int32 (L,), and `targets` and `weights`, int32 and float32
        (L - max_coarse_input_length,), for positions from the infer token on.
    """
    codes = codes[: window.coarse.n_coarse_codebooks]
    coarse = interleave(codes, window.codebook_size, window.offset).astype(np.int32)
    infer = window.coarse.max_coarse_input_length
    past = int(row.num_past[0]) + segment.start
    width = infer + 1 + min(window.coarse.max_coarse_history, past)
    tokens = np.concatenate([row.past, coarse[None]], axis=1)
    prompt, _ = window_prompt(NUMPY, row, tokens, segment.start, width, window)
    new = coarse[segment.start : segment.end]
    ids = np.concatenate([prompt[0], new])
    targets = ids[infer + 1 :]
    weights = np.zeros(len(targets), np.float32)
    own_past = min(segment.start, width - infer - 1)
    weights[len(targets) - len(new) - own_past :] = past_weight
    weights[len(targets) - len(new) :] = 1
    targets = np.where(weights > 0, targets, IGNORED_LABEL).astype(np.int32)
    return {"ids": ids[:-1], "targets": targets, "weights": weights}


# === Fine ===


def fine_example(
    codes: np.ndarray,
    voice: Voice | None,
    window: int,
    codebook: int,
    config: BarkFineGenerationConfig,
    *,
    num_given: int,
    unknown: int,
    after: np.ndarray | None = None,
) -> Example:
    """Builds a fine example: one window and the codebook to predict.

    If the window extends past the recording, generation still predicts codes there and
    reads them in later passes. `after` stands in for these arbitrary codes.

    Args:
        codes: int (K, T), all codebooks.
        voice: History, or None.
        window: Window index.
        codebook: Codebook to predict, in [num_given, K).
        config: Generation configuration.
        num_given: Codebooks from the coarse stage.
        unknown: Code that marks unknown values.
        after: int (K, W or more), codes past the recording's end, for codebooks that
            earlier passes predicted; None: unknown.

    Returns:
        `ids`, int32 (W, K), `codebook`, int32 (), and `targets`, int32 (W,), ignored
        outside the recording and where generation does not write.
    """
    history, count = history_of(voice, num_fine=len(codes)), codes.shape[1]
    known = np.asarray(codes, np.int32)[None]
    (whole,) = window_buffer(NUMPY, known, np.array([count]), history, config, unknown)
    before = int(history_length(NUMPY, history.num_fine, config)[0])
    place = window_at(NUMPY, window, count, before, config)
    frames = np.arange(place.start, place.start + config.max_fine_input_length)
    shown = whole[frames]
    written, is_after = frames >= place.fill, frames >= before + count
    targets = np.where(written & ~is_after, shown[:, codebook], IGNORED_LABEL)
    # Earlier passes have written the lower codebooks.
    shown[written, codebook:] = unknown
    if after is not None and is_after.any():
        passed = slice(num_given, codebook)
        shown[is_after, passed] = after.T[: is_after.sum(), passed]
    return {
        "ids": shown.astype(np.int32),
        "codebook": np.int32(codebook),
        "targets": targets.astype(np.int32),
    }


# === All utterances ===


class StageExamples:
    """Examples of one stage, determined by index, epoch and seed alone.

    Args:
        utterances: Sequence of `Utterance`, such as a `ShardSet`.
        stage: `"semantic"`, `"coarse"` or `"fine"`.
        config: Generation configuration.
        model_config: The network's configuration.
        options: `ExampleOptions`.
        seed: Seed of all random choices.

    Raises:
        ValueError: If the stage is unknown, or there are no utterances.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        stage: str,
        config: BarkGenerationConfig,
        model_config: Any,
        options: ExampleOptions | None = None,
        *,
        seed: int = 0,
    ):
        makers = {
            "semantic": self._semantic,
            "coarse": self._coarse,
            "fine": self._fine,
        }
        if stage not in makers:
            raise ValueError(
                f"stage must be one of {', '.join(makers)}. Received: {stage!r}"
            )
        if not len(utterances):
            raise ValueError("utterances must not be empty. Received: none")
        self.utterances, self.stage, self.config = utterances, stage, config
        self.model_config, self.seed = model_config, seed
        self.options = options or ExampleOptions()
        self._make = makers[stage]
        self.window = CoarseWindow.of(config)
        lengths = _of_all(utterances, "lengths", lambda one: len(one.semantic))
        self.lengths = np.asarray(lengths)
        speakers = _of_all(utterances, "speakers", lambda one: one.speaker)
        self._of_speaker: dict[str, list[int]] = {}
        for index, speaker in enumerate(speakers):
            self._of_speaker.setdefault(speaker, []).append(index)

    def __len__(self) -> int:
        return len(self.utterances)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Returns the arrays of one example, unpadded."""
        key = [self.seed, epoch * len(self) + index]
        rng = np.random.Generator(np.random.Philox(key=key))
        utterance = self.utterances[index]
        return self._make(utterance, self._voice(index, utterance, rng), rng)

    def _voice(self, index, utterance, rng) -> Voice | None:
        others = self._of_speaker[utterance.speaker]
        options = self.options
        is_default = options.default_speaker in (None, utterance.speaker)
        probability = options.history_probability if is_default else 1.0
        if len(others) < 2 or rng.random() >= probability:
            return None
        # Any recording but the utterance itself.
        place = int(rng.integers(len(others) - 1))
        other = others[place] if others[place] < index else others[place + 1]
        return voice_of(self.utterances[other], self.window, rng)

    def _semantic(self, utterance, voice, rng) -> Example:
        text_ids = utterance.text_ids
        if self.options.vary_text is not None:
            text_ids = self.options.vary_text(text_ids, rng)
        config = self.config.semantic_config
        example = semantic_example(
            text_ids, utterance.semantic, voice, config, self.model_config.block_size
        )
        places = _places(len(example["targets"]))
        if self.options.tempo_noise:
            order, is_own = np.arange(len(places)), True
            if rng.random() < self.options.tempo_noise:
                room = semantic_room(config, self.model_config.block_size)
                order, is_own = changed_tempo(len(places), rng, room)
            read, places = example["targets"][order], places[order]
            example["read"] = read
            example["targets"] = np.where(is_own, read, np.int32(IGNORED_LABEL))
        if self.options.token_noise:
            read = example.get("read", example["targets"])
            example["read"] = self._noisy(read, config.semantic_vocab_size, rng)
        if self.options.guided_attention:
            example["guide"] = np.float32(self.options.guided_attention)
            example["places"] = places
        return example

    def _coarse(self, utterance, voice, rng) -> Example:
        row = coarse_row(utterance.semantic, voice, self.window)
        num_tokens = utterance.codes.shape[1] * self.window.coarse.n_coarse_codebooks
        segments = coarse_segments(row, num_tokens, self.window)
        ends = np.array([segment.end for segment in segments])
        # Segments are drawn by length, so all tokens are equally likely targets.
        number = int(np.searchsorted(ends, rng.integers(num_tokens), side="right"))
        example = coarse_example(
            row,
            utterance.codes,
            segments[number],
            self.window,
            self.options.past_weight,
        )
        if self.options.token_noise:
            ids, size = example["ids"], self.window.codebook_size
            codes = ids - self.window.offset
            count = size * self.window.coarse.n_coarse_codebooks
            is_code = (codes >= 0) & (codes < count)
            # A token of the same codebook.
            first = self.window.offset + codes // size * size
            noisy = first + self._noisy(codes % size, size, rng)
            example["ids"] = np.where(is_code, noisy, ids).astype(np.int32)
        return example

    def _fine(self, utterance, voice, rng) -> Example:
        config = self.config.fine_acoustics_config
        num_given = self.config.coarse_acoustics_config.n_coarse_codebooks
        codes = utterance.codes[: config.n_fine_codebooks]
        num_frames = codes.shape[1]
        frames = 0 if voice is None else voice["fine_prompt"].shape[1]
        history = history_length(NUMPY, frames, config)
        count = int(num_windows(NUMPY, num_frames, history, config))
        noise = rng.integers(num_frames, size=config.max_fine_input_length)
        unknown = self.config.codebook_size
        example = fine_example(
            codes,
            voice,
            int(rng.integers(count)),
            int(rng.integers(num_given, config.n_fine_codebooks)),
            config,
            num_given=num_given,
            unknown=unknown,
            after=codes[:, noise],
        )
        if self.options.token_noise:
            ids = example["ids"]
            noisy = self._noisy(ids, unknown, rng)
            example["ids"] = np.where(ids == unknown, ids, noisy)
        return example

    def _noisy(self, tokens, vocab_size: int, rng) -> np.ndarray:
        """Replaces some tokens by random ones, as `token_noise` says."""
        other = rng.integers(vocab_size, size=tokens.shape, dtype=np.int32)
        is_other = rng.random(tokens.shape) < self.options.token_noise
        return np.where(is_other, other, tokens)

    # === Batches ===

    @property
    def longest(self) -> int:
        """The padded length of the longest example."""
        if self.stage == "semantic":
            config, size = self.config.semantic_config, self.model_config.block_size
            return semantic_room(config, size)
        if self.stage == "coarse":
            return self.window.slots - 1
        return self.config.fine_acoustics_config.max_fine_input_length

    def length_of(self, example: Example) -> int:
        """The unpadded length of an example."""
        return len(example["ids" if self.stage == "coarse" else "targets"])

    def pad(self, examples: Sequence[Example], length: int) -> Example:
        """Stacks examples along a new axis B, padded to `length` without targets."""
        if self.stage == "coarse":
            after_infer = length - self.window.coarse.max_coarse_input_length
            pad = self.window.coarse.coarse_semantic_pad_token
            form = {
                "ids": (length, pad),
                "targets": (after_infer, IGNORED_LABEL),
                "weights": (after_infer, 0),
            }
        else:
            pad = self.config.semantic_config.semantic_pad_token
            form = {
                "targets": (length, IGNORED_LABEL),
                "read": (length, pad),
                "places": (length, NO_PLACE),
            }
        return {
            name: np.stack(
                [_padded(one[name], *form.get(name, ())) for one in examples]
            )
            for name in examples[0]
        }

    def without_targets(self, example: Example) -> Example:
        """Copies an example without targets, to fill the last batch."""
        nothing = np.full_like(example["targets"], IGNORED_LABEL)
        return {**example, "targets": nothing}


def _places(count: int) -> np.ndarray:
    """Where in its recording each of some tokens stands: 0 begin, 1 end."""
    return ((np.arange(count) + 0.5) / count).astype(np.float32)


def _padded(array: np.ndarray, length: int | None = None, value: int = 0):
    if length is None:
        return array
    return np.pad(array, (0, length - len(array)), constant_values=value)


def _of_all(utterances, name: str, of) -> Sequence[Any]:
    """Collects a property of all utterances, from the index if there is one."""
    known = getattr(utterances, name, None)
    return [of(one) for one in utterances] if known is None else known
