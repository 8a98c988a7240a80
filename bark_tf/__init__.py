"""Suno's Bark text-to-speech in TensorFlow and Keras 3.

Public names are loaded when they are first used, so that `import bark_tf` costs
nothing and TensorFlow starts only when something needs it.
"""

import importlib
from typing import Any

from bark_tf._version import __version__

_HOMES = {
    "bark_tf.config": (
        "BarkCoarseConfig",
        "BarkCoarseGenerationConfig",
        "BarkConfig",
        "BarkFineConfig",
        "BarkFineGenerationConfig",
        "BarkGenerationConfig",
        "BarkSemanticConfig",
        "BarkSemanticGenerationConfig",
        "EncodecConfig",
    ),
    "bark_tf.models.causal": (
        "BarkCausalModel",
        "BarkCoarseModel",
        "BarkSemanticModel",
    ),
    "bark_tf.models.encodec.model": ("EncodecModel",),
    "bark_tf.models.fine": ("BarkFineModel",),
    "bark_tf.bark": ("BarkModel",),
    "bark_tf.processor": ("BarkProcessor",),
    "bark_tf.voices.presets": ("VoicePreset",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'bark_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
