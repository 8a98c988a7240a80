"""Suno's Bark text-to-speech in TensorFlow and Keras 3.

Public names load on first use, so `import bark_tf` is cheap and TensorFlow starts
only when something needs it. Its messages about the CPU and XLA are then off, unless
TF_CPP_MIN_LOG_LEVEL is set in the environment; "0" shows them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bark_tf._version import __version__
from bark_tf.backend import collection_paused, prepare

if TYPE_CHECKING:  # the same names as in _HOMES, for type checkers and editors
    from bark_tf.audio.writing import write_audio as write_audio
    from bark_tf.bark import BarkModel as BarkModel
    from bark_tf.config import BarkCoarseConfig as BarkCoarseConfig
    from bark_tf.config import BarkCoarseGenerationConfig as BarkCoarseGenerationConfig
    from bark_tf.config import BarkConfig as BarkConfig
    from bark_tf.config import BarkFineConfig as BarkFineConfig
    from bark_tf.config import BarkFineGenerationConfig as BarkFineGenerationConfig
    from bark_tf.config import BarkGenerationConfig as BarkGenerationConfig
    from bark_tf.config import BarkSemanticConfig as BarkSemanticConfig
    from bark_tf.config import (
        BarkSemanticGenerationConfig as BarkSemanticGenerationConfig,
    )
    from bark_tf.config import EncodecConfig as EncodecConfig
    from bark_tf.config import HubertConfig as HubertConfig
    from bark_tf.config import HubertQuantizerConfig as HubertQuantizerConfig
    from bark_tf.convert.convert import convert_checkpoint as convert_checkpoint
    from bark_tf.feature_extractor import (
        EncodecFeatureExtractor as EncodecFeatureExtractor,
    )
    from bark_tf.hub import shipped_checkpoint as shipped_checkpoint
    from bark_tf.models.causal import BarkCausalModel as BarkCausalModel
    from bark_tf.models.causal import BarkCoarseModel as BarkCoarseModel
    from bark_tf.models.causal import BarkSemanticModel as BarkSemanticModel
    from bark_tf.models.encodec.model import EncodecModel as EncodecModel
    from bark_tf.models.fine import BarkFineModel as BarkFineModel
    from bark_tf.models.hubert.model import HubertModel as HubertModel
    from bark_tf.models.hubert.quantizer import HubertQuantizer as HubertQuantizer
    from bark_tf.processor import BarkProcessor as BarkProcessor
    from bark_tf.progress import Timings as Timings
    from bark_tf.progress import progress_bar as progress_bar
    from bark_tf.semantic_tokens.ctc import CtcTokenizer as CtcTokenizer
    from bark_tf.semantic_tokens.hubert import HubertTokenizer as HubertTokenizer
    from bark_tf.semantic_tokens.hubert import nearest_frames as nearest_frames
    from bark_tf.semantic_tokens.kmeans import KMeansTokenizer as KMeansTokenizer
    from bark_tf.semantic_tokens.tokenizer import SemanticTokenizer as SemanticTokenizer
    from bark_tf.semantic_tokens.tokenizer import (
        load_semantic_tokenizer as load_semantic_tokenizer,
    )
    from bark_tf.speech.result import Speech as Speech
    from bark_tf.speech.speak import speak as speak
    from bark_tf.speech.speak import unload as unload
    from bark_tf.text.tokenizer import BarkTokenizer as BarkTokenizer
    from bark_tf.voices.cloning import make_voice as make_voice
    from bark_tf.voices.cloning import save_voice as save_voice
    from bark_tf.voices.presets import VoicePreset as VoicePreset

_HOMES = {
    "bark_tf.audio.writing": ("write_audio",),
    "bark_tf.bark": ("BarkModel",),
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
        "HubertConfig",
        "HubertQuantizerConfig",
    ),
    "bark_tf.convert.convert": ("convert_checkpoint",),
    "bark_tf.feature_extractor": ("EncodecFeatureExtractor",),
    "bark_tf.hub": ("shipped_checkpoint",),
    "bark_tf.models.causal": (
        "BarkCausalModel",
        "BarkCoarseModel",
        "BarkSemanticModel",
    ),
    "bark_tf.models.encodec.model": ("EncodecModel",),
    "bark_tf.models.fine": ("BarkFineModel",),
    "bark_tf.models.hubert.model": ("HubertModel",),
    "bark_tf.models.hubert.quantizer": ("HubertQuantizer",),
    "bark_tf.processor": ("BarkProcessor",),
    "bark_tf.progress": ("Timings", "progress_bar"),
    "bark_tf.semantic_tokens.ctc": ("CtcTokenizer",),
    "bark_tf.semantic_tokens.hubert": ("HubertTokenizer", "nearest_frames"),
    "bark_tf.semantic_tokens.kmeans": ("KMeansTokenizer",),
    "bark_tf.semantic_tokens.tokenizer": (
        "SemanticTokenizer",
        "load_semantic_tokenizer",
    ),
    "bark_tf.speech.speak": ("speak", "unload"),
    "bark_tf.speech.result": ("Speech",),
    "bark_tf.text.tokenizer": ("BarkTokenizer",),
    "bark_tf.voices.cloning": ("make_voice", "save_voice"),
    "bark_tf.voices.presets": ("VoicePreset",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


if not TYPE_CHECKING:  # a type checker would take it for an attribute of any name

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'bark_tf' has no attribute {name!r}")
        prepare()
        with collection_paused():
            return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
