"""Configurations of the models and of generation, in Hugging Face's format."""

from bark_tf.config.bark import (
    PRESETS,
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkSemanticConfig,
    BarkSubModelConfig,
)
from bark_tf.config.base import CONFIG_NAME, GENERATION_CONFIG_NAME
from bark_tf.config.ctc import CtcConfig
from bark_tf.config.encodec import EncodecConfig
from bark_tf.config.generation import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.config.hubert import HubertConfig, HubertQuantizerConfig

__all__ = [
    "CONFIG_NAME",
    "GENERATION_CONFIG_NAME",
    "PRESETS",
    "BarkCoarseConfig",
    "BarkCoarseGenerationConfig",
    "BarkConfig",
    "BarkFineConfig",
    "BarkFineGenerationConfig",
    "BarkGenerationConfig",
    "BarkSemanticConfig",
    "BarkSemanticGenerationConfig",
    "BarkSubModelConfig",
    "CtcConfig",
    "EncodecConfig",
    "HubertConfig",
    "HubertQuantizerConfig",
]
