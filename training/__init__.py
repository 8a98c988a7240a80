"""Training and its data; installed as `bark_tf.training`.

Public names load on first use, so reading a recipe does not start TensorFlow.
"""

import importlib
from typing import Any

from bark_tf.backend import prepare

_HOMES = {
    ".options": ("CodecOptions", "ExampleOptions", "LoraOptions", "TrainingOptions"),
    ".runs.recipe": ("Recipe", "load_recipe", "recipe_names", "with_settings"),
    ".runs.run": ("run",),
    ".runs.fit": ("optimizer_of", "train"),
    ".runs.lora": ("load_lora", "merge_lora", "save_lora"),
    ".runs.trainers": ("CoarseTrainer", "FineTrainer", "SemanticTrainer", "TRAINERS"),
    ".codec.trainer": ("AudioBatches", "CodecTrainer"),
    ".data.prepare": ("prepare",),
    ".data.shards": (
        "DatasetInfo",
        "ShardSet",
        "Utterance",
        "shard_path",
        "write_shard",
    ),
    ".data.examples": ("StageExamples",),
    ".data.batches": ("Batches",),
    ".evaluation.evaluate": ("evaluate",),
    ".evaluation.metrics": ("corpus_word_error_rate", "mel_distance", "si_sdr"),
    ".evaluation.recognisers": ("recogniser_of",),
    ".tokenizers.pairs": ("make_pairs",),
    ".tokenizers.quantizer": ("quantizer_score", "train_quantizer"),
    ".tokenizers.train": ("train_tokenizer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    prepare()
    return getattr(importlib.import_module(_HOME_OF[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
