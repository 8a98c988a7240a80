"""The open voice, step 5: the first two codebooks to all four.

bark-tf train open_voice/fine --set model=open data=tokens out=open

Finish the codec first: its codes are the targets here.
"""

from bark_tf.training import ExampleOptions, Recipe, TrainingOptions

RECIPE = Recipe(
    stage="fine",
    batch_size=8,
    examples=ExampleOptions(history_probability=0.3),
    sample_every=1_000,
    options=TrainingOptions(
        steps=3_000,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=300,
        final_share=0.02,
        weight_decay=0.05,
        checkpoint_every=500,
        validate_every=1_000,
    ),
)
