"""What users of transformers and PyTorch type out of habit, and what it means here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

_Function = TypeVar("_Function", bound=Callable)

# === Keywords of `from_pretrained` and `save_pretrained` ===


class _Keyword(NamedTuple):
    """A keyword without effect.

    Attributes:
        accepted: The values that ask for what happens anyway; None: all values.
        instead: What to do instead of giving another value.
    """

    accepted: tuple | None = None
    instead: str = ""


_RENAMED = {
    "pretrained_model_name_or_path": "path_or_id",
    "torch_dtype": "dtype",
    "use_auth_token": "token",
}
_KEYWORDS = {
    # Weights are always read one by one, never by pickle, and no code is loaded.
    "low_cpu_mem_usage": _Keyword(),
    "use_safetensors": _Keyword(),
    "weights_only": _Keyword(),
    "trust_remote_code": _Keyword(),
    # Downloads always resume, and tokenizers are always fast.
    "resume_download": _Keyword(),
    "use_fast": _Keyword(),
    "attn_implementation": _Keyword(
        (None, "eager", "sdpa"), "leave it out, TensorFlow has one attention"
    ),
    "use_flash_attention_2": _Keyword(
        (None, False), "leave it out, TensorFlow has one attention"
    ),
    "load_in_8bit": _Keyword((None, False), 'load with quantize="int8"'),
    "load_in_4bit": _Keyword((None, False), 'load with quantize="int8"'),
    "quantization_config": _Keyword((None,), 'load with quantize="int8"'),
    "offload_folder": _Keyword((None,), "load a BarkModel with offload=True"),
    "max_memory": _Keyword((None,), "load a BarkModel with offload=True"),
    "safe_serialization": _Keyword(
        (None, True), "leave it out, safetensors is the only format that is written"
    ),
    "force_download": _Keyword(
        (None, False), "delete the repository from the cache, or give cache_dir"
    ),
    "proxies": _Keyword((None,), "set HTTPS_PROXY in the environment"),
    "variant": _Keyword((None,), "load with dtype, which casts while reading"),
    "ignore_mismatched_sizes": _Keyword(
        (None, False), "load a checkpoint of these sizes"
    ),
    "output_loading_info": _Keyword(
        (None, False), "leave it out, a missing or unknown weight is an error"
    ),
    "return_unused_kwargs": _Keyword(
        (None, False), "leave it out, an unknown keyword is an error"
    ),
}


def accepts_habits(method: _Function) -> _Function:
    """Makes a `from_pretrained` or `save_pretrained` take transformers' keywords.

    Raises:
        ValueError: From the method, for a value that cannot be honoured; the message
            says what to do.
    """

    @functools.wraps(method)
    def pretrained(owner, *args, **keywords):
        return method(owner, *args, **_understood(keywords))

    return pretrained


def _understood(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Our keywords for transformers'; others stay."""
    ours = {}
    for name, value in keywords.items():
        if name == "device_map":
            _check_device(value)
        elif name not in _KEYWORDS:
            renamed = _RENAMED.get(name, name)
            if renamed != name and renamed in keywords:
                raise ValueError(
                    f"{name} is another name for {renamed}. Received: both"
                )
            ours[renamed] = value
        elif not _is_accepted(value, _KEYWORDS[name].accepted):
            raise ValueError(
                f"{name}={value!r} cannot be honoured: {_KEYWORDS[name].instead}"
            )
    return ours


def _is_accepted(value: Any, accepted: tuple | None) -> bool:
    return accepted is None or any(value is one or value == one for one in accepted)


def _check_device(device: Any) -> None:
    """Checks that a `device_map` names the device that TensorFlow uses by itself."""
    if isinstance(device, Mapping) and [*device] == [""]:
        device = device[""]
    if device is None or device == "auto":
        return
    import tensorflow as tf

    has_gpu = bool(tf.config.get_visible_devices("GPU"))
    if str(device) in (("cuda", "cuda:0", "0") if has_gpu else ("cpu",)):
        return
    seen = "a GPU, and uses it" if has_gpu else "no GPU, and uses the CPU"
    raise ValueError(
        f"device_map={device!r} cannot be honoured: TensorFlow sees {seen}. Before the "
        "program starts, CUDA_VISIBLE_DEVICES decides which GPUs it sees"
    )


# === Attributes of networks ===

_PLACES = "TensorFlow places networks and tensors itself, on a GPU if it sees one"
_DTYPE = 'the dtype is given while loading: from_pretrained(..., dtype="{}")'
_TRAIN = "train a stage, such as model.semantic, by its `compile` and `fit`"
_STAGE = "a stage, such as model.semantic, has it"
ATTRIBUTES: Mapping[str, str] = {
    "to": f"{_PLACES}; " + _DTYPE.format("float16"),
    "cuda": _PLACES,
    "cpu": _PLACES,
    "device": _PLACES,
    "half": _DTYPE.format("float16"),
    "bfloat16": _DTYPE.format("bfloat16"),
    "float": _DTYPE.format("float32"),
    "double": _DTYPE.format("float64"),
    "eval": "leave it out, there is no dropout unless a network is called with "
    "training=True",
    "train": f"{_TRAIN}, or call a network with training=True",
    "fit": _TRAIN,
    "compile": _TRAIN,
    "requires_grad_": "set `trainable` of a network or layer",
    "parameters": "the variables of a network are its `weights` and "
    "`trainable_weights`",
    "named_parameters": "the variables of a network are its `weights`, each with its "
    "`path`",
    "state_dict": "`save_pretrained` writes the weights, under the names of PyTorch",
    "load_state_dict": "`from_pretrained` reads the weights of PyTorch",
    "to_bettertransformer": "leave it out, TensorFlow has one attention",
    "reverse_bettertransformer": "leave it out, TensorFlow has one attention",
    "get_input_embeddings": _STAGE,
    "resize_token_embeddings": _STAGE,
}


def no_attribute(owner: Any, name: str) -> AttributeError:
    """The error for an attribute of PyTorch: one line that says what to do here."""
    return AttributeError(f"{type(owner).__name__} has no `{name}`: {ATTRIBUTES[name]}")


def refuse_habits(self: Any, name: str) -> Any:
    """A `__getattr__` that says what to do instead of PyTorch's methods."""
    if name in ATTRIBUTES:
        raise no_attribute(self, name)
    return object.__getattribute__(self, name)  # raises the usual error
