"""The open voice, step 4: semantic tokens to the first two codebooks.

bark-tf train open_voice/coarse --set model=open data=tokens out=open

Finish the codec first: its codes are the targets here.
"""

from bark_tf.training import ExampleOptions, Recipe, TrainingOptions
from bark_tf.training.recipes.open_voice._speakers import TEACHER

RECIPE = Recipe(
    stage="coarse",
    batch_size=8,
    examples=ExampleOptions(
        history_probability=0.3,
        default_speaker=TEACHER,
        # Deviates from generation: the past of a window counts, too, so that a step
        # learns from five times as many tokens.
        past_weight=1.0,
    ),
    sample_every=1_000,
    options=TrainingOptions(
        steps=6_000,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=300,
        final_share=0.02,
        weight_decay=0.05,
        checkpoint_every=500,
        validate_every=1_000,
    ),
)
