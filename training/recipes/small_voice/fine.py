"""The small voice, fifth step: the first two codebooks to all eight.

    bark-tf train small_voice/fine --set model=small data=tokens out=small

2.2 million weights. The codec must not change any more when this begins: its codes are
what is learned here.
"""

from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = Recipe(
    stage="fine",
    batch_size=16,
    dropout=0.1,
    history_probability=0.3,
    default_speaker="kumo",
    sample_every=1_000,
    options=TrainingOptions(
        steps=12_000,
        optimizer="muon",
        learning_rate=2.5e-3,
        warmup_steps=300,
        final_share=0.02,
        weight_decay=0.05,
        checkpoint_every=500,
        validate_every=1_000,
    ),
)
