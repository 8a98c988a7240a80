"""The small voice, step 3: text to semantic tokens.

    bark-tf train small_voice/semantic --set model=small data=texts out=small

The network has 2.0 million weights. Train until the held-out loss is low enough: the
shipped voice has 1.05 after 21,000 steps, 7,000 of them with AdamW and 5,000 with the
present semantic tokens. One core with AVX-512 takes 3 steps per second.
"""

from bark_tf.training import ExampleOptions, Recipe, TrainingOptions
from bark_tf.training.recipes.small_voice._start import vary_text

RECIPE = Recipe(
    stage="semantic",
    batch_size=16,
    dropout=0.1,
    examples=ExampleOptions(
        # Mostly without a history, as most people generate without a voice prompt.
        history_probability=0.3,
        default_speaker="kumo",
        vary_text=vary_text,
        token_noise=0.1,
    ),
    sample_every=1_000,
    options=TrainingOptions(
        steps=12_000,
        optimizer="muon",
        learning_rate=3e-3,
        warmup_steps=300,
        final_share=0.02,
        weight_decay=0.05,
        checkpoint_every=500,
        validate_every=1_000,
    ),
)
