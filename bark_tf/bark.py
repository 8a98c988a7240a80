"""The complete Bark model: text to audio through four networks.

Source: suno-ai/bark, `bark/api.py`; Hugging Face transformers, `BarkModel`.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
import tensorflow as tf

from bark_tf import hub
from bark_tf.config import GENERATION_CONFIG_NAME, BarkConfig, BarkGenerationConfig
from bark_tf.convert.configs import as_stored
from bark_tf.convert.weights import (
    check_weights,
    load_weights,
    save_weights,
    stored_dtype,
)
from bark_tf.files import local_path
from bark_tf.generation.api import check_eager, checked_ids, checked_request
from bark_tf.generation.histories import Request, stack, voices_per_row
from bark_tf.generation.keywords import (
    GenerateKeywords,
    GenerationOptions,
    LongFormKeywords,
)
from bark_tf.generation.limits import check_fit, fitting_config, speech_bytes
from bark_tf.generation.long_form import LongFormOutput, generate_long, stream_long
from bark_tf.generation.options import StageConfigs, call_config, stage_configs
from bark_tf.generation.outputs import (
    BarkOutput,
    voices_to_continue,
    warn_of_empty_rows,
)
from bark_tf.generation.pipeline import speak
from bark_tf.generation.stage import Call
from bark_tf.generation.streaming import LATENCIES, stream
from bark_tf.habits import accepts_habits, refuse_habits
from bark_tf.memory import allocate_only, return_free_memory
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.models.pretrained import PretrainedModel
from bark_tf.models.transformer import TransformerModel
from bark_tf.progress import Progress
from bark_tf.saving import saving
from bark_tf.serving.saved_model.export import export
from bark_tf.speech.speaker import Speaker
from bark_tf.text.chunks import ChunkReport
from bark_tf.voices.presets import VoicePreset, load_voices, read_voice_index

# The parts, named as in transformers.
PARTS: Mapping[str, type[PretrainedModel]] = {
    "semantic": BarkSemanticModel,
    "coarse_acoustics": BarkCoarseModel,
    "fine_acoustics": BarkFineModel,
    "codec_model": EncodecModel,
}

# Threads that load weights while the next part is built.
READERS = 2

# TensorFlow's CPU allocator never returns memory. It reads this variable only once, at
# its first allocation.
SYSTEM_ALLOCATOR = "TF_ONEDNN_USE_SYSTEM_ALLOCATOR"


class BarkModel(Speaker):
    """Suno's Bark: text in, audio out.

    Args:
        config: `BarkConfig`.
        generation_config: `BarkGenerationConfig`; None for its defaults (greedy).
        dtype: Keras dtype policy of all parts.
        on_built: Called with every part as soon as it is built.

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
        self._config = config
        self.generation_config = generation_config or BarkGenerationConfig(
            sample_rate=config.codec_config.sampling_rate
        )
        self._parts: dict[str, PretrainedModel] = {}
        for name, cls in PARTS.items():
            part = cls(getattr(config, cls.config_class.part), dtype=dtype)
            self._parts[name] = part
            if on_built is not None:
                on_built(part)
        self._reload: Callable[[str], None] | None = None
        # Where voices are looked up by name: a checkpoint, and arguments of the hub.
        self._source: tuple[str | os.PathLike, dict[str, Any]] | None = None

    if not TYPE_CHECKING:  # a type checker would take it for an attribute of any name
        __getattr__ = refuse_habits

    def __repr__(self) -> str:
        source = "" if self._source is None else f", from {str(self._source[0])!r}"
        return (
            f"BarkModel({self.count_params():,} parameters, "
            f"{self._parts['semantic'].dtype_policy.name}, {self.sampling_rate} Hz"
            f"{source})"
        )

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
        """The four networks by name; with offloading, idle ones have no weights."""
        return dict(self._parts)

    @property
    def config(self) -> BarkConfig:
        """The configuration, with those of the parts as they are now."""
        parts = {part.config.part: part.config for part in self._parts.values()}
        return self._config.replace(**parts)

    def with_part(self, name: str, part: PretrainedModel) -> BarkModel:
        """Returns a model with one part replaced; it shares the others.

        Args:
            name: Part name, such as `"semantic"`.
            part: A network of the same class.

        Raises:
            ValueError: If the name is unknown or the class differs.

        Example:
            >>> better = model.with_part("semantic", fine_tuned)
        """
        if not isinstance(part, PARTS.get(name, ())):
            raise ValueError(
                f"name must be one of {', '.join(PARTS)}, and part a network of its "
                f"class. Received: name={name!r}, part={type(part).__name__}"
            )
        other = copy.copy(self)
        other._parts = {**self._parts, name: part}
        return other

    def load_part(self, name: str) -> PretrainedModel:
        """Returns a part with its weights loaded; offloading releases the others."""
        part = self._parts[name]
        if self._reload is not None and part.is_released:
            for other in self._parts.values():
                if not other.is_released:
                    other.release()
            return_free_memory()
            self._reload(name)
        return part

    def enable_cpu_offload(self, gpu_id: int | None = 0) -> None:
        """Keeps only the active part on the GPU and the others in main memory.

        Does nothing without a GPU; `from_pretrained(offload=True)` saves main memory.

        Args:
            gpu_id: Ignored, since TensorFlow has already placed the model.
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

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the audio, which the codec decides."""
        return self.config.codec_config.sampling_rate

    def can_generate(self) -> bool:
        """True, as in transformers."""
        return True

    def count_params(self) -> int:
        """Number of values in all variables."""
        return sum(part.count_params() for part in self.parts.values())

    def num_parameters(self, **options: bool) -> int:
        """Number of values in all weights; see `PretrainedModel.num_parameters`."""
        return sum(part.num_parameters(**options) for part in self.parts.values())

    @classmethod
    def from_config(cls, config: BarkConfig, **keywords: Any) -> BarkModel:
        """The constructor, under its name in transformers."""
        return cls(config, **keywords)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs=None) -> None:
        """Does so for the three transformers; see their own method."""
        for part in self._transformers():
            part.gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Does so for the three transformers; see their own method."""
        for part in self._transformers():
            part.gradient_checkpointing_disable()

    def _transformers(self) -> list[TransformerModel]:
        parts = self._parts.values()
        return [part for part in parts if isinstance(part, TransformerModel)]

    # === Loading and saving ===

    @classmethod
    @accepts_habits
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike | None = None,
        *,
        dtype: Any = None,
        quantize: str | None = None,
        offload: bool = False,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> BarkModel:
        """Loads a checkpoint from a directory or a hub repository.

        Where dtype and layout allow it, weights are views of the mapped file: it may be
        replaced, but must not be changed in place. The keywords of transformers work
        too, see `bark_tf.habits`.

        Args:
            path_or_id: A directory, or an id such as `"suno/bark-small"`; None for
                the small checkpoint that comes with the package.
            dtype: A Keras dtype policy such as `"float32"` or `"bfloat16"`; `"auto"`
                for that of the checkpoint; None for Keras's global policy.
            quantize: A Keras quantization mode such as `"int8"` for the kernels of
                the transformer blocks; None: off.
            offload: Whether to keep only the active part in memory. Parts are reloaded
                from the file whenever they are used, which discards changes to their
                weights; incompatible with `quantize`. Sets
                `TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1` in the environment, which saves
                more if TensorFlow has not computed anything yet.
            subfolder: Folder of the checkpoint inside the directory or repository.
            revision: Branch, tag or commit of the repository.
            cache_dir: Directory for downloads.
            token: Access token for private repositories.
            local_files_only: Never use the network.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If the checkpoint is damaged or is not a Bark model.
        """
        path_or_id = hub.shipped_checkpoint() if path_or_id is None else path_or_id
        where = {
            "subfolder": subfolder,
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        config = BarkConfig.from_pretrained(path_or_id, **where)
        generation = hub.find_optional(path_or_id, GENERATION_CONFIG_NAME, **where)
        generation = generation and fitting_config(generation, config)
        path = hub.find_weights(path_or_id, **where)
        check_weights(
            path,
            {
                part.checkpoint_prefix: getattr(config, part.config_class.part)
                for part in PARTS.values()
            },
        )
        dtype = stored_dtype(path) if dtype == "auto" else dtype
        if offload and quantize is not None:
            raise ValueError(
                "offload=True cannot be combined with quantize. "
                f"Received: quantize={quantize!r}"
            )
        if offload:
            os.environ.setdefault(SYSTEM_ALLOCATOR, "1")
        # Load one part while the next is built.
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
        model._source = (path_or_id, where)
        if offload:
            model._reload = lambda name: load_weights(model._parts[name], path)
        for part in model._parts.values():
            if quantize is not None and hasattr(part, "quantized"):
                part.quantize(quantize)
        return model

    @accepts_habits
    def save_pretrained(
        self, directory: str | os.PathLike, *, max_shard_size: int | str = "5GB"
    ) -> None:
        """Writes a checkpoint directory that transformers can read too.

        Args:
            directory: Created if missing. Files of an older save are replaced, all
                together: a process that is killed leaves the old or the new ones.
            max_shard_size: Bytes, or a string such as `"200MB"`; larger checkpoints
                are split.
        """
        if self._reload is not None:
            raise ValueError("A model with offloaded parts cannot be saved")
        directory = local_path(directory, "The directory")
        with saving(directory):
            save_weights(
                list(self._parts.values()), directory, max_shard_size=max_shard_size
            )
            dtype = self._parts["semantic"].variable_dtype
            as_stored(self.config, dtype).save_pretrained(directory)
            self.generation_config.save_pretrained(directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the checkpoint (see `hub.push_folder`); returns the commit's URL."""
        return hub.push_saved(self.save_pretrained, repo_id, **kwargs)

    # === Generation ===

    @overload
    def generate(
        self,
        input_ids: Any = None,
        history_prompt: Any = None,
        return_output_lengths: Literal[False] | None = None,
        *,
        return_dict: Literal[False] = False,
        **keywords: Unpack[GenerateKeywords],
    ) -> tf.Tensor: ...

    @overload
    def generate(
        self,
        input_ids: Any = None,
        history_prompt: Any = None,
        *,
        return_output_lengths: Literal[True],
        return_dict: Literal[False] = False,
        **keywords: Unpack[GenerateKeywords],
    ) -> tuple[tf.Tensor, list[int]]: ...

    @overload
    def generate(
        self,
        input_ids: Any = None,
        history_prompt: Any = None,
        return_output_lengths: bool | None = None,
        *,
        return_dict: Literal[True],
        **keywords: Unpack[GenerateKeywords],
    ) -> BarkOutput: ...

    @overload
    def generate(
        self,
        input_ids: Any = None,
        history_prompt: Any = None,
        return_output_lengths: bool | None = None,
        *,
        return_dict: bool = False,
        **keywords: Unpack[GenerateKeywords],
    ) -> tf.Tensor | tuple[tf.Tensor, list[int]] | BarkOutput: ...

    def generate(
        self,
        input_ids: Any = None,
        history_prompt: Any = None,
        return_output_lengths: bool | None = None,
        *,
        attention_mask: Any = None,
        seed: int | Sequence[int] | None = None,
        return_dict: bool = False,
        generation_config: BarkGenerationConfig | Mapping[str, Any] | None = None,
        compat: str | None = None,
        jit_compile: bool = True,
        progress: Progress | None = None,
        **options: Unpack[GenerationOptions],
    ):
        """Generates audio from text ids.

        Args:
            input_ids: int (batch, 256), from `BarkProcessor`.
            history_prompt: Speaker, in any form that `VoicePreset.load` takes: the name
                of one of the checkpoint's voices or of Suno's, the path of a `.npz`
                file, a `VoicePreset` or a mapping of its three arrays. A list has one
                (or None) per row.
            return_output_lengths: Whether to return the rows' lengths too.
            attention_mask: (batch, 256), 0 where `input_ids` is padding.
            seed: Seed of all random choices, or a list with one per row. None: a new
                one each time.
            return_dict: Whether to return a `BarkOutput`.
            generation_config: Replaces the model's own. A mapping changes fields of the
                model's own instead, and may hold keywords too.
            compat: `"hf"` reproduces transformers where this library differs: ids of
                the last codebook have no upper limit, shorter rows continue to the
                length of the longest, and the fine stage ignores `do_sample`.
            jit_compile: Whether to compile decoding with XLA.
            progress: Called with (stage, done, total) during generation.
            **options: Fields of the generation configurations: with a prefix
                (`semantic_`, `coarse_`, `fine_`) for that stage, without one for every
                stage that has it. `temperature=0` and `do_sample=False` are greedy.

        Returns:
            float32 (batch, samples), rows end in silence; with
            `return_output_lengths` also a list of samples per row; with `return_dict`
            a `BarkOutput`.

        Raises:
            ValueError: For invalid arguments, before any work is done.
        """
        compat, configs = self._configs(generation_config, options, compat)
        request = self._request(
            input_ids, attention_mask, history_prompt, seed, configs
        )
        call = Call(self, configs, compat, jit_compile, report=progress)
        pad_codes = compat == "hf" and not return_output_lengths
        out = speak(call, request, warn_of_empty_rows, pad_codes=pad_codes)
        lengths = (out.frames * self.config.codec_config.hop_length).numpy().tolist()
        if return_dict:
            return BarkOutput(
                audio=out.audio,
                lengths=lengths,
                semantic=out.semantic,
                coarse=out.coarse,
                fine=out.fine,
                voice=voices_to_continue(out),
                sampling_rate=self.sampling_rate,
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
        generation_config: BarkGenerationConfig | Mapping[str, Any] | None = None,
        compat: str | None = None,
        jit_compile: bool = True,
        progress: Progress | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Iterator[np.ndarray]:
        """Generates audio piece by piece; arguments not listed are `generate`'s.

        Args:
            input_ids: int (1, 256), from `BarkProcessor` for one text.
            history_prompt: Speaker.
            latency: `"exact"`: the same bits as `generate`, one piece per 512 frames
                (6.8 s) after the first 1024. `"low"`: the first piece comes after
                about 1 s of coarse frames; the fine codes differ from the exact ones.
            attention_mask: See `generate`.
            seed: See `generate`.
            generation_config: See `generate`.
            compat: See `generate`.
            jit_compile: See `generate`.
            progress: See `generate`.
            **options: See `generate`.

        Returns:
            Iterator of float32 (samples,), `sampling_rate` per second.

        Raises:
            ValueError: For invalid arguments, before any work is done.
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
        return stream(call, request, latency, warn_of_empty_rows)

    def generate_long(
        self, processor: Any, text: str, **options: Unpack[LongFormKeywords]
    ) -> LongFormOutput:
        """Speaks a text of any length; see `bark_tf.generation.long_form`."""
        return generate_long(self, processor, text, **options)

    def stream_long(
        self, processor: Any, text: str, **options: Unpack[LongFormKeywords]
    ) -> Iterator[tuple[np.ndarray, ChunkReport]]:
        """Yields the audio of a long text chunk by chunk; see `generate_long`."""
        return stream_long(self, processor, text, **options)

    def export(
        self,
        directory: str | os.PathLike,
        processor: Any,
        *,
        version: int | None = None,
        jit_compile: bool = False,
        generation_config: BarkGenerationConfig | Mapping[str, Any] | None = None,
        compat: str | None = None,
        **options: Any,
    ) -> Path:
        """Writes a SavedModel for TensorFlow Serving; see `docs/serving.md`.

        Args:
            directory: The model's directory on the server; its last part is the name.
            processor: `BarkProcessor`; its tokenizer and voices become a part of it.
            version: The new subdirectory; None: one above the newest.
            jit_compile: Whether XLA compiles the decode loops; the server then needs
                `--xla_cpu_compilation_enabled=true`.
            generation_config: See `generate`.
            compat: See `generate`.
            **options: See `generate`; temperatures, `min_new_tokens` and
                `max_new_tokens` come with each request instead.

        Returns:
            The subdirectory.

        Raises:
            ValueError: If the version exists, parts are offloaded, or the tokenizer is
                not BERT's. Nothing is written in this case.
        """
        if self._reload is not None:
            raise ValueError("A model with offloaded parts cannot be exported")
        compat, configs = self._configs(generation_config, options, compat)
        return export(
            self,
            processor,
            configs,
            directory,
            version=version,
            jit_compile=jit_compile,
            compat=compat,
        )

    def codec_decode(self, fine_output: Any, output_lengths: Any = None) -> tf.Tensor:
        """Decodes codes to audio.

        Args:
            fine_output: int (batch, codebooks, frames), values in [0, codebook_size).
            output_lengths: Frames per row; None: all.

        Returns:
            float32 (batch, samples); rows end in silence after their length.
        """
        check_eager()
        codes = np.asarray(fine_output)
        if output_lengths is None:
            output_lengths = [codes.shape[-1]] * len(codes)
        rows = [row[:, : int(n)] for row, n in zip(codes, output_lengths, strict=True)]
        return tf.constant(stack([self._decode_row(row) for row in rows]))

    def _decode_row(self, codes: np.ndarray) -> np.ndarray:
        """Decodes one row alone, so that other rows cannot affect it."""
        if codes.shape[1] == 0:
            return np.zeros(0, np.float32)
        return self.codec_model.decode(codes[None])[0].numpy()

    def _configs(
        self, config: Any, options: Mapping[str, Any], compat: str | None
    ) -> tuple[str | None, StageConfigs]:
        """Combines config and options; refuses limits that the model cannot meet."""
        check_eager()
        config, options = call_config(config, self.generation_config, options)
        compat = compat or config.compat
        configs = stage_configs(config, options, compat)
        check_fit(self.config, configs)
        return compat, configs

    def _request(
        self, input_ids, attention_mask, history_prompt, seed, configs: StageConfigs
    ) -> Request:
        if history_prompt is not None and input_ids is not None:
            input_ids = checked_ids("input_ids", input_ids)
            history_prompt = load_voices(
                voices_per_row(history_prompt, len(input_ids)),
                functools.partial(self._load_voice, configs=configs),
            )
        row_bytes = speech_bytes(self._parts, configs)
        inputs = input_ids, attention_mask, history_prompt, seed, row_bytes
        return checked_request(self.config.semantic_config, configs, *inputs)

    def _load_voice(self, voice: Any, configs: StageConfigs) -> VoicePreset:
        """Loads a voice of any form; names are those of the processor."""
        listed, options = {}, {}
        if isinstance(voice, str) and self._source and not voice.endswith(".npz"):
            path, options = self._source
            listed = read_voice_index(path, hub_options=options)
        # Voices of other rates are allowed: frames and tokens need not match.
        limits = {**configs.voice_limits(), "frames_per_token": None}
        return VoicePreset.load(voice, listed, hub_options=options, **limits)
