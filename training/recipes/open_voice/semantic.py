"""The open voice, step 3: text to semantic tokens.

bark-tf train open_voice/semantic --set model=open data=tokens out=open

Word pieces vary from example to example, see `vary_text`.
"""

from bark_tf.training import ExampleOptions, Recipe, TrainingOptions
from bark_tf.training.recipes.open_voice._speakers import TEACHER
from bark_tf.training.recipes.open_voice._start import vary_text

RECIPE = Recipe(
    stage="semantic",
    batch_size=32,
    examples=ExampleOptions(
        history_probability=0.3,
        default_speaker=TEACHER,
        vary_text=vary_text,
        token_noise=0.2,
        tempo_noise=0.4,
        guided_attention=0.3,
    ),
    sample_every=1_000,
    options=TrainingOptions(
        steps=12_000,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=300,
        final_share=0.02,
        weight_decay=0.05,
        checkpoint_every=500,
        validate_every=1_000,
    ),
)
