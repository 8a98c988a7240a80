"""The small voice, step 4: semantic tokens to the first two codebooks.

    bark-tf train small_voice/coarse --set model=small data=tokens out=small

The network has 2.4 million weights. The shipped voice has a held-out loss of 2.31 after
17,900 steps of 8 windows, 2,400 of them with AdamW; 6,000 more did not make it more
intelligible. Finish the codec first: its codes are the targets here.
"""

from bark_tf.training import ExampleOptions, Recipe, TrainingOptions

RECIPE = Recipe(
    stage="coarse",
    batch_size=16,
    dropout=0.1,
    examples=ExampleOptions(
        history_probability=0.3,
        default_speaker="kumo",
        # Deviates from generation: the past of a window counts a little, too.
        past_weight=0.1,
    ),
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
