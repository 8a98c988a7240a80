"""The small voice, first step: a codec from nothing.

    bark-tf prepare SPEECH audio --sample-rate 16000 --validation 0.05
    bark-tf train small_voice/codec --set data=audio out=small

SPEECH holds one LJSpeech folder per speaker (kumo, alpha). 2.1 million weights; at most
4 steps of 6 audio seconds per second on two idle cores.
"""

from bark_tf.training.recipes.small_voice._start import start
from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = Recipe(
    stage="codec",
    start=start,
    batch_size=6,
    segment_s=1.0,
    # The first voice most; the second so that others can be learned later.
    speakers={"kumo": 0.65, "alpha": 0.35},
    codec={"quantize_from": 1_500, "weights": {"waveform": 0.05}},
    sample_every=1_000,
    options=TrainingOptions(
        steps=10_000,
        learning_rate=1e-3,
        warmup_steps=200,
        final_share=0.1,
        weight_decay=0.0,
        clip_norm=2.0,
        checkpoint_every=500,
        validate_every=2_000,
    ),
)
