"""The small voice, third step: text to semantic tokens.

    bark-tf train small_voice/semantic --set model=small data=texts out=small

2.0 million weights. The held-out loss says when it is enough: 1.05 where the voice that
ships stands, after 21,000 steps, 7,000 of them with AdamW and 5,000 with the tokens
that it has now. One core with AVX-512 takes 3 steps a second.
"""

from bark_tf.training.recipes.small_voice._start import vary_text
from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = Recipe(
    stage="semantic",
    batch_size=16,
    dropout=0.1,
    # Mostly without a history, because most people speak without a voice.
    history_probability=0.3,
    default_speaker="kumo",
    vary_text=vary_text,
    token_noise=0.1,
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
