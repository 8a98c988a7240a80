"""The small voice, fourth step: semantic tokens to the first two codebooks.

    bark-tf train small_voice/coarse --set model=small data=tokens out=small

2.4 million weights. The held-out loss of the voice that ships is 2.31, after 17,900
steps of 8 windows, 2,400 of them with AdamW. 6,000 more did not make it easier to
understand. The codec must not change any more when this begins: its codes are what is
learned here.
"""

from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = Recipe(
    stage="coarse",
    batch_size=16,
    dropout=0.1,
    history_probability=0.3,
    default_speaker="kumo",
    # Cheaper than exact: the past of a window is learned once more.
    past_weight=0.1,
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
