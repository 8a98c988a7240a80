"""Shapes from configurations alone, also those of the published files."""

import hashlib
import math

import pytest
import toy
import toy_files

from bark_tf.config import BarkConfig
from bark_tf.convert.rules import variables_of
from bark_tf.convert.shapes import PARTS, variable_shapes
from bark_tf.convert.weights import table_for
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel

CODEC = toy_files.CODEC.replace(codebook_size=8, target_bandwidths=(0.75,))
NETWORKS = {
    "semantic": (BarkSemanticModel, toy.semantic_config(bias=False)),
    "coarse, bias": (BarkCoarseModel, toy.coarse_config(num_layers=3)),
    "fine": (BarkFineModel, toy.fine_config(bias=False)),
    "fine, untied": (
        BarkFineModel,
        toy.fine_config(tie_word_embeddings=False, n_codes_given=2),
    ),
    "codec": (EncodecModel, CODEC),
    "codec, deep": (
        EncodecModel,
        CODEC.replace(
            num_residual_layers=2, num_lstm_layers=3, upsampling_ratios=(5, 4)
        ),
    ),
    "codec, stereo": (
        EncodecModel,
        CODEC.replace(
            audio_channels=2,
            norm_type="time_group_norm",
            use_causal_conv=False,
            use_conv_shortcut=False,
            num_lstm_layers=0,
            num_filters=6,
            compress=3,
            kernel_size=5,
            last_kernel_size=9,
            residual_kernel_size=1,
        ),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_the_networks(name):
    model_class, config = NETWORKS[name]
    variables = variables_of(model_class(config))
    built = {path: tuple(variable.shape) for path, variable in variables.items()}
    assert variable_shapes(config) == built


@pytest.mark.parametrize(
    ("preset", "num_tensors", "num_values", "digest"),
    [
        (
            "bark-small",
            542,
            443_673_346,
            "2d533d2e10a325c74123bfefbceeef42503a6a5aecdbdddcf2047c76807f7b1c",
        ),
        (
            "bark",
            806,
            1_166_913_282,
            "97f4ae12a6d130bcdb3d2751c9b8bc1f344035b93b4b036c5f117143c35944f5",
        ),
    ],
)
def test_published_checkpoints(preset, num_tensors, num_values, digest):
    """The first digest is of `suno/bark-small`'s own file.

    Source: kadirnar/VoiceHub, which published it.
    """
    rows = {}
    for prefix, cls in PARTS.items():
        part = getattr(BarkConfig.preset(preset), cls.part)
        table, shapes = table_for(part).below("", f"{prefix}."), variable_shapes(part)
        for rule in table.rules:
            rows[rule.theirs] = "F32", rule.shape(shapes[rule.ours])
        rows |= {second: rows[first] for second, first in table.aliases.items()}
        rows |= {name: ("BOOL", make().shape) for name, make in table.constants.items()}
    assert len(rows) == num_tensors
    assert sum(math.prod(shape) for _, shape in rows.values()) == num_values
    lines = (
        f"{name}|{dtype}|{'x'.join(map(str, shape))}"
        for name, (dtype, shape) in sorted(rows.items())
    )
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
