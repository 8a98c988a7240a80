"""The typed keywords are those that `generate` takes."""

import inspect

import pytest
import toy

from bark_tf.bark import BarkModel
from bark_tf.generation.keywords import (
    GenerateKeywords,
    GenerationOptions,
    LongFormKeywords,
    SpeakKeywords,
)
from bark_tf.generation.long_form import LongForm
from bark_tf.generation.options import PREFIXES, effective, stage_configs

OPTIONS = GenerationOptions.__annotations__.keys()
CONFIG = toy.generation_config()
STAGES = (
    CONFIG.semantic_config,
    CONFIG.coarse_acoustics_config,
    CONFIG.fine_acoustics_config,
)


def test_every_field_of_every_stage_is_typed():
    fields = [stage.field_names() for stage in STAGES]
    everything = {name for names in fields for name in names}
    assert everything <= OPTIONS
    for prefix, names in zip(PREFIXES, fields, strict=True):
        for name in ("do_sample", "temperature", "top_k", "top_p"):
            assert (prefix + name in OPTIONS) == (name in names)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_typed_option_is_taken(name):
    values = {field: value for stage in STAGES for field, value in vars(stage).items()}
    plain = name if name in values else name.partition("_")[2]
    options = {name: values.get(plain)}
    stage_configs(CONFIG, options)
    assert effective(options) == {} or plain in values


@pytest.mark.parametrize(
    ("function", "typed"),
    [(BarkModel.generate, GenerateKeywords), (LongForm, LongFormKeywords)],
)
def test_every_keyword_is_typed(function, typed):
    own = typed.__annotations__.keys() - OPTIONS
    named = {
        name
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
    passed_on = GenerateKeywords.__annotations__.keys() - OPTIONS - {"attention_mask"}
    extra = {"return_dict"} if function is BarkModel.generate else set()
    assert named - extra <= own <= named | passed_on


def test_speak_takes_what_long_texts_take():
    own, long = (
        set(typed.__annotations__) - OPTIONS
        for typed in (SpeakKeywords, LongFormKeywords)
    )
    given = {"voice", "voice_preset", "history_prompt", "voices", "speak"}
    assert own == long - given | {"processor", "marks", "aliases", "loudness"}
