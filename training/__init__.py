"""Training and its data; installed as `bark_tf.training`.

Public names load on first use, so reading a recipe does not start TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bark_tf import backend

if TYPE_CHECKING:  # the same names as in _HOMES, for type checkers and editors
    from .codec.trainer import AudioBatches as AudioBatches
    from .codec.trainer import CodecTrainer as CodecTrainer
    from .data.batches import Batches as Batches
    from .data.examples import StageExamples as StageExamples
    from .data.labels import labelled as labelled
    from .data.prepare import prepare as prepare
    from .data.shards import DatasetInfo as DatasetInfo
    from .data.shards import ShardSet as ShardSet
    from .data.shards import Utterance as Utterance
    from .data.shards import shard_path as shard_path
    from .data.shards import write_shard as write_shard
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.metrics import corpus_word_error_rate as corpus_word_error_rate
    from .evaluation.metrics import cosine_similarity as cosine_similarity
    from .evaluation.metrics import mel_distance as mel_distance
    from .evaluation.metrics import si_sdr as si_sdr
    from .evaluation.recognisers import recogniser_of as recogniser_of
    from .evaluation.recognisers import voice_judge_of as voice_judge_of
    from .options import CodecOptions as CodecOptions
    from .options import ExampleOptions as ExampleOptions
    from .options import LoraOptions as LoraOptions
    from .options import TrainingOptions as TrainingOptions
    from .runs.fit import optimizer_of as optimizer_of
    from .runs.fit import train as train
    from .runs.lora import load_lora as load_lora
    from .runs.lora import merge_lora as merge_lora
    from .runs.lora import save_lora as save_lora
    from .runs.lora import save_peft as save_peft
    from .runs.recipe import Recipe as Recipe
    from .runs.recipe import load_recipe as load_recipe
    from .runs.recipe import recipe_names as recipe_names
    from .runs.recipe import with_settings as with_settings
    from .runs.run import run as run
    from .runs.trainers import TRAINERS as TRAINERS
    from .runs.trainers import CoarseTrainer as CoarseTrainer
    from .runs.trainers import FineTrainer as FineTrainer
    from .runs.trainers import SemanticTrainer as SemanticTrainer
    from .tokenizers.ctc import ctc_options as ctc_options
    from .tokenizers.ctc import train_ctc as train_ctc
    from .tokenizers.pairs import make_pairs as make_pairs
    from .tokenizers.quantizer import quantizer_score as quantizer_score
    from .tokenizers.quantizer import train_quantizer as train_quantizer
    from .tokenizers.train import train_tokenizer as train_tokenizer

_HOMES = {
    ".options": ("CodecOptions", "ExampleOptions", "LoraOptions", "TrainingOptions"),
    ".runs.recipe": ("Recipe", "load_recipe", "recipe_names", "with_settings"),
    ".runs.run": ("run",),
    ".runs.fit": ("optimizer_of", "train"),
    ".runs.lora": ("load_lora", "merge_lora", "save_lora", "save_peft"),
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
    ".data.labels": ("labelled",),
    ".evaluation.evaluate": ("evaluate",),
    ".evaluation.metrics": (
        "corpus_word_error_rate",
        "cosine_similarity",
        "mel_distance",
        "si_sdr",
    ),
    ".evaluation.recognisers": ("recogniser_of", "voice_judge_of"),
    ".tokenizers.ctc": ("ctc_options", "train_ctc"),
    ".tokenizers.pairs": ("make_pairs",),
    ".tokenizers.quantizer": ("quantizer_score", "train_quantizer"),
    ".tokenizers.train": ("train_tokenizer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


if not TYPE_CHECKING:  # a type checker would take it for an attribute of any name

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        backend.prepare()
        with backend.collection_paused():
            return getattr(importlib.import_module(_HOME_OF[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
