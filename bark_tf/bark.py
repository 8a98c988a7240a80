"""The whole Bark: text to audio through four networks.

Source: suno-ai/bark, `bark/api.py`; Hugging Face transformers, `BarkModel`.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf import hub
from bark_tf.config import (
    GENERATION_CONFIG_NAME,
    BarkConfig,
    BarkGenerationConfig,
)
from bark_tf.convert.weights import load_weights, save_weights
from bark_tf.generation.api import checked_request
from bark_tf.generation.fine import check_window
from bark_tf.generation.histories import Request, stack, voices_per_row
from bark_tf.generation.long_form import generate_long, stream_long
from bark_tf.generation.options import StageConfigs, stage_configs
from bark_tf.generation.pipeline import Speech, speak
from bark_tf.generation.semantic import check_semantic_limit
from bark_tf.generation.stage import Call, Progress
from bark_tf.generation.streaming import LATENCIES, stream
from bark_tf.memory import allocate_only, return_free_memory
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.models.pretrained import PretrainedModel
from bark_tf.voices.presets import VoicePreset

# The parts by the names that transformers gives them.
PARTS: Mapping[str, type[PretrainedModel]] = {
    "semantic": BarkSemanticModel,
    "coarse_acoustics": BarkCoarseModel,
    "fine_acoustics": BarkFineModel,
    "codec_model": EncodecModel,
}

# Threads that read weights while the next part is built.
READERS = 2

# TensorFlow's own CPU allocator keeps all the memory that it ever had. It looks at this
# once, when it allocates for the first time; later nothing changes.
SYSTEM_ALLOCATOR = "TF_ONEDNN_USE_SYSTEM_ALLOCATOR"


class BarkOutput(NamedTuple):
    """What `BarkModel.generate(return_dict=True)` returns.

    Attributes:
        audio: float32 (batch, samples), 24 kHz, about [-1, 1]; rows end in silence
            after their own length.
        lengths: Samples per row.
        semantic: int32 (batch, time), 49.9 Hz, filled up with `eos_token_id`.
        coarse: int32 (batch, n_coarse_codebooks, frames), 75 Hz, filled up with 0.
        fine: int32 (batch, n_fine_codebooks, frames), 75 Hz, filled up with 0.
        voice: `VoicePreset` to continue from; a list of them for several rows. None
            where a row is empty.
    """

    audio: tf.Tensor
    lengths: list[int]
    semantic: tf.Tensor
    coarse: tf.Tensor
    fine: tf.Tensor
    voice: VoicePreset | list[VoicePreset | None] | None


class BarkModel:
    """Suno's Bark: text in, audio out.

    Args:
        config: `BarkConfig`.
        generation_config: `BarkGenerationConfig`; its defaults (greedy) when None.
        dtype: Keras dtype policy of all parts.
        on_built: Called with every part as soon as it exists.

    Attributes:
        semantic: `BarkSemanticModel`.
        coarse_acoustics: `BarkCoarseModel`.
        fine_acoustics: `BarkFineModel`.
        codec_model: `EncodecModel`.

    Example:
        >>> model = BarkModel(BarkConfig.preset("tiny"))
        >>> ids = np.zeros((1, 256), "int32")
        >>> model.generate(ids, semantic_max_new_tokens=4).shape[0]
        1
    """

    def __init__(
        self,
        config: BarkConfig,
        generation_config: BarkGenerationConfig | None = None,
        *,
        dtype: Any = None,
        on_built: Callable[[PretrainedModel], None] | None = None,
    ):
        self.config = config
        self.generation_config = generation_config or BarkGenerationConfig()
        self._parts: dict[str, PretrainedModel] = {}
        for name, cls in PARTS.items():
            part = cls(getattr(config, cls.config_class.part), dtype=dtype)
            self._parts[name] = part
            if on_built is not None:
                on_built(part)
        self._reload: Callable[[str], None] | None = None

    # === Parts ===

    @property
    def semantic(self) -> BarkSemanticModel:
        """Text to semantic tokens."""
        return self.load_part("semantic")

    @property
    def coarse_acoustics(self) -> BarkCoarseModel:
        """Semantic tokens to the first codebooks."""
        return self.load_part("coarse_acoustics")

    @property
    def fine_acoustics(self) -> BarkFineModel:
        """The first codebooks to all of them."""
        return self.load_part("fine_acoustics")

    @property
    def codec_model(self) -> EncodecModel:
        """Codes to audio and back."""
        return self.load_part("codec_model")

    @property
    def parts(self) -> dict[str, PretrainedModel]:
        """The four networks by name; idle ones may be without their weights."""
        return dict(self._parts)

    def with_part(self, name: str, part: PretrainedModel) -> BarkModel:
        """The same model with another network in one place; the others are shared.

        Args:
            name: Of the part, such as `"semantic"`.
            part: A network of the same kind.

        Raises:
            ValueError: If there is no such part, or the network is of another kind.

        Example:
            >>> better = model.with_part("semantic", fine_tuned)
        """
        if not isinstance(part, PARTS.get(name, ())):
            raise ValueError(
                f"name must be one of {', '.join(PARTS)}, and part a network of its "
                f"kind. Received: name={name!r}, part={type(part).__name__}"
            )
        other = copy.copy(self)
        other._parts = {**self._parts, name: part}
        return other

    def load_part(self, name: str) -> PretrainedModel:
        """Gives a part with its weights in place; with offloading, the others go."""
        part = self._parts[name]
        if self._reload is not None and part.is_released:
            for other in self._parts.values():
                if not other.is_released:
                    other.release()
            return_free_memory()
            self._reload(name)
        return part

    def enable_cpu_offload(self, gpu_id: int | None = 0) -> None:
        """Keeps only the part that is at work on the GPU.

        The others wait in the main memory. Without a GPU there is nothing to gain and
        nothing is done; `from_pretrained(offload=True)` then saves main memory.

        Args:
            gpu_id: Accepted for compatibility; TensorFlow placed the model already.
        """
        if not tf.config.list_logical_devices("GPU"):
            logging.getLogger(__name__).info("No GPU: enable_cpu_offload does nothing")
            return
        self._offload_to_host()

    def _offload_to_host(self) -> None:
        kept = {
            name: [np.array(weight.value) for weight in part.weights]
            for name, part in self._parts.items()
        }
        self._reload = lambda name: self._parts[name].put_weights(kept[name])
        for part in self._parts.values():
            part.release()

    def can_generate(self) -> bool:
        """True, as in transformers."""
        return True

    def count_params(self) -> int:
        """Number of values in all variables."""
        return sum(part.count_params() for part in self.parts.values())

    # === Loading and saving ===

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike | None = None,
        *,
        dtype: Any = None,
        quantize: str | None = None,
        offload: bool = False,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> BarkModel:
        """Loads a checkpoint directory or a repository of the hub.

        Weights that fit stay in the file until they are used. It may be replaced
        meanwhile, but must not be changed in place.

        Args:
            path_or_id: A directory, or an id such as `"suno/bark-small"`; None for
                the small checkpoint that comes with the package.
            dtype: A Keras dtype policy such as `"float32"` or `"bfloat16"`; Keras's
                global policy by default.
            quantize: A Keras quantization mode such as `"int8"` for the kernels of
                the transformers' blocks; None: off.
            offload: Whether only the part at work is in memory. Parts are read from
                the file again whenever their turn comes, so changes to their weights
                are lost; not together with `quantize`. Sets
                `TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1` in the environment, which saves
                more where TensorFlow has not computed anything before.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept.
            token: Access token for private repositories.
            local_files_only: Never ask the network.

        Returns:
            The model.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is damaged or no Bark.
        """
        path_or_id = hub.shipped_checkpoint() if path_or_id is None else path_or_id
        where = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        config = BarkConfig.from_pretrained(path_or_id, **where)
        generation = hub.find_optional(path_or_id, GENERATION_CONFIG_NAME, **where)
        if generation is not None:
            generation = BarkGenerationConfig.from_json_file(generation)
        path = hub.find_weights(path_or_id, **where)
        if offload and quantize is not None:
            raise ValueError(
                "offload=True reads the weights as they are in the file. "
                f"Received: quantize={quantize!r} with it"
            )
        if offload:
            os.environ.setdefault(SYSTEM_ALLOCATOR, "1")
        # One part is read while the next is built.
        with allocate_only(), ThreadPoolExecutor(READERS) as readers:
            loading: list[Future] = []

            def read(part: PretrainedModel) -> None:
                if offload:
                    part.is_offloaded = True
                    part.release()
                else:
                    loading.append(readers.submit(load_weights, part, path))

            model = cls(config, generation, dtype=dtype, on_built=read)
            for reading in loading:
                reading.result()
        if offload:
            model._reload = lambda name: load_weights(model._parts[name], path)
        for part in model._parts.values():
            if quantize is not None and hasattr(part, "quantized"):
                part.quantize(quantize)
        return model

    def save_pretrained(
        self, directory: str | os.PathLike, *, max_shard_size: int | str = "5GB"
    ) -> None:
        """Writes a checkpoint directory that transformers opens too.

        Args:
            directory: Made if missing. Files of an older save are replaced.
            max_shard_size: Bytes, or a text such as `"200MB"`; larger checkpoints are
                split.
        """
        if self._reload is not None:
            raise ValueError("A model whose parts are offloaded cannot be saved")
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_weights(
            list(self._parts.values()), directory, max_shard_size=max_shard_size
        )
        self.config.save_pretrained(directory)
        self.generation_config.save_pretrained(directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the checkpoint; see `hub.push_folder` for the keywords.

        Returns:
            The address of the commit.
        """
        return hub.push_saved(self.save_pretrained, repo_id, **kwargs)

    # === Generation ===

    def generate(
        self,
        input_ids: Any = None,
        history_prompt: Any = None,
        return_output_lengths: bool | None = None,
        *,
        attention_mask: Any = None,
        seed: int | Sequence[int] | None = None,
        return_dict: bool = False,
        generation_config: BarkGenerationConfig | None = None,
        compat: str | None = None,
        jit_compile: bool = True,
        progress: Progress | None = None,
        **options: Any,
    ):
        """Generates audio from text ids.

        Args:
            input_ids: int (batch, 256), what `BarkProcessor` returns.
            history_prompt: The voice to speak in: a `VoicePreset` or a mapping of its
                three arrays for all rows, a list with one (or None) per row, or None.
            return_output_lengths: Whether to return the rows' lengths too.
            attention_mask: (batch, 256), 0 where `input_ids` is padding.
            seed: Decides every random choice; a list gives every row its own. None:
                another take each time.
            return_dict: Whether to return a `BarkOutput`.
            generation_config: Instead of the model's own.
            compat: `"hf"` reproduces transformers where this library differs: the open
                end of the last codebook's ids, shorter rows that go on to the length
                of the longest, a fine stage that follows its temperature alone.
            jit_compile: Whether decoding is compiled with XLA.
            progress: Called with (stage, done, total) as the work goes on.
            **options: Fields of the generation configurations. With a prefix
                (`semantic_`, `coarse_`, `fine_`) for that stage; without, for every
                stage that knows it. `temperature=0` and `do_sample=False` are greedy.

        Returns:
            float32 (batch, samples), rows end in silence; with
            `return_output_lengths` also a list of samples per row; with `return_dict`
            a `BarkOutput`.

        Raises:
            ValueError: For arguments that cannot work, before any work is done.
        """
        compat, configs = self._configs(generation_config, options, compat)
        request = self._request(
            input_ids, attention_mask, history_prompt, seed, configs
        )
        call = Call(self, configs, compat, jit_compile, report=progress)
        pad_codes = compat == "hf" and not return_output_lengths
        out = speak(call, request, _warn_of_empty_rows, pad_codes=pad_codes)
        lengths = (out.frames * self.config.codec_config.hop_length).numpy().tolist()
        if return_dict:
            return BarkOutput(
                audio=out.audio,
                lengths=lengths,
                semantic=out.semantic,
                coarse=out.coarse,
                fine=out.fine,
                voice=_voices_to_continue(out),
            )
        return (out.audio, lengths) if return_output_lengths else out.audio

    def stream(
        self,
        input_ids: Any = None,
        history_prompt: Any = None,
        *,
        latency: str = "exact",
        attention_mask: Any = None,
        seed: int | None = None,
        generation_config: BarkGenerationConfig | None = None,
        compat: str | None = None,
        jit_compile: bool = True,
        progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """Generates audio piece by piece, while later audio is still being made.

        Args:
            input_ids: int (1, 256), what `BarkProcessor` returns for one text.
            history_prompt: The voice to speak in.
            latency: `"exact"`: the pieces are those of `generate`, bit by bit; one
                piece per 512 frames (6.8 s) after the first 1024. `"low"`: the first
                piece comes after about one second's worth of coarse frames; the fine
                codes differ from the exact ones.
            attention_mask: As in `generate`, like all other arguments.
            seed: As in `generate`.
            generation_config: As in `generate`.
            compat: As in `generate`.
            jit_compile: As in `generate`.
            progress: As in `generate`.
            **options: As in `generate`.

        Returns:
            Iterator of float32 (samples,), 24 kHz.

        Raises:
            ValueError: For arguments that cannot work, before any work is done.
        """
        if latency not in LATENCIES:
            raise ValueError(
                f"latency must be one of {LATENCIES}. Received: {latency!r}"
            )
        compat, configs = self._configs(generation_config, options, compat)
        request = self._request(
            input_ids, attention_mask, history_prompt, seed, configs
        )
        if len(request.text_ids) != 1:
            raise ValueError(
                "stream speaks one text at a time. Received: "
                f"{len(request.text_ids)} texts and takes"
            )
        call = Call(self, configs, compat, jit_compile, report=progress)
        return stream(call, request, latency, _warn_of_empty_rows)

    def generate_long(self, processor: Any, text: str, **options: Any):
        """Speaks a text of any length; see `bark_tf.long_form.generate_long`."""
        return generate_long(self, processor, text, **options)

    def stream_long(self, processor: Any, text: str, **options: Any):
        """Speaks sentence by sentence; see `bark_tf.long_form.stream_long`."""
        return stream_long(self, processor, text, **options)

    def codec_decode(self, fine_output: Any, output_lengths: Any = None) -> tf.Tensor:
        """Turns codes into audio.

        Args:
            fine_output: int (batch, codebooks, frames), values in [0, codebook_size).
            output_lengths: Frames per row; None: all of them.

        Returns:
            float32 (batch, samples); rows end in silence after their length.
        """
        codes = np.asarray(fine_output)
        if output_lengths is None:
            output_lengths = [codes.shape[-1]] * len(codes)
        rows = [row[:, : int(n)] for row, n in zip(codes, output_lengths, strict=True)]
        return tf.constant(stack([self._decode_row(row) for row in rows]))

    def _decode_row(self, codes: np.ndarray) -> np.ndarray:
        """Decodes one row alone, so that no other row can change it."""
        if codes.shape[1] == 0:
            return np.zeros(0, np.float32)
        return self.codec_model.decode(codes[None])[0].numpy()

    def _configs(
        self, config: BarkGenerationConfig | None, options: Any, compat: str | None
    ) -> tuple[str | None, StageConfigs]:
        """What a call asks for; limits that no stage could keep are refused."""
        config = config or self.generation_config
        compat = compat or config.compat
        configs = stage_configs(config, options, compat)
        check_semantic_limit(self.config.semantic_config, configs.semantic)
        configs.coarse_window.check(self.config.coarse_acoustics_config)
        check_window(self.config.fine_acoustics_config, configs.fine)
        return compat, configs

    def _request(
        self, input_ids, attention_mask, history_prompt, seed, configs: StageConfigs
    ) -> Request:
        # Voices of other rates are taken: frames and tokens need not fit together.
        limits = {**configs.voice_limits(), "frames_per_token": None}
        if history_prompt is not None:
            batch = 0 if input_ids is None else len(input_ids)
            history_prompt = [
                None if voice is None else VoicePreset.from_dict(voice, **limits)
                for voice in voices_per_row(history_prompt, batch)
            ]
        model = self.config.semantic_config
        return checked_request(
            model, configs, input_ids, attention_mask, history_prompt, seed
        )


def _warn_of_empty_rows(num_semantic: Any) -> None:
    """Warns of rows that ended at once."""
    empty = np.flatnonzero(np.asarray(num_semantic) == 0).tolist()
    if empty:
        warnings.warn(
            f"The text-to-semantic stage ended rows {empty} at once: their audio "
            "is empty. Try another seed, or set semantic_min_new_tokens",
            UserWarning,
            stacklevel=4,
        )


def _voices_to_continue(out: Speech) -> VoicePreset | list[VoicePreset | None] | None:
    """What was said, as voices: one for a single row, a list for several."""
    voices = []
    counts = zip(out.num_semantic.numpy(), out.codes_frames.numpy(), strict=True)
    for row, (tokens, frames) in enumerate(counts):
        arrays = (
            out.semantic[row, :tokens],
            out.coarse[row, :, :frames],
            out.fine[row, :, :frames],
        )
        voice = VoicePreset(*(array.numpy() for array in arrays)) if frames else None
        voices.append(voice)
    return voices[0] if len(voices) == 1 else voices
