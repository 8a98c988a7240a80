"""Options check their values and name the wrong one."""

import pytest

from bark_tf.training import CodecOptions, ExampleOptions, LoraOptions, TrainingOptions

WRONG = {
    TrainingOptions: [
        ("steps", 0),
        ("optimizer", "sgd"),
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("final_share", 2.0),
        ("weight_decay", -1.0),
        ("beta_1", 1.0),
        ("beta_2", -0.1),
        ("clip_norm", 0.0),
        ("ema", 1.0),
        ("patience", 0),
        ("accumulate", 0),
    ],
    ExampleOptions: [
        ("history_probability", 1.5),
        ("token_noise", 1.0),
        ("token_noise", -0.1),
        ("tempo_noise", 1.5),
        ("guided_attention", -1.0),
        ("past_weight", 2.0),
    ],
    LoraOptions: [("rank", 0)],
    CodecOptions: [
        ("segment_s", 0.0),
        ("weights", {"mell": 1.0}),
        ("quantize_from", -1),
        ("codebook_decay", 1.0),
        ("revive_below", 1.5),
        ("kmeans_latents", 0),
    ],
}


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [(cls, name, value) for cls, wrong in WRONG.items() for name, value in wrong],
)
def test_wrong_values_are_named(cls, name, value):
    expected = f"{cls.__name__}.{name} must be.*Received: {name}="
    with pytest.raises(ValueError, match=expected):
        cls(**{name: value})


def test_losses_that_are_not_named_keep_their_weight():
    weights = CodecOptions(weights={"waveform": 0.5}).weights
    assert weights["waveform"] == 0.5 and weights["mel"] == 1.0
