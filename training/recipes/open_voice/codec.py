"""The open voice, step 2: a codec from scratch.

    bark-tf train open_voice/codec --set data=phonemes out=open codec.recogniser=open

Finish the semantic tokenizer first: its recogniser judges what the codec says.

The codec has 2.5 million weights; those of the result are averaged over steps. A step
is 2 seconds of audio: early on, many small steps teach more than few large ones.
docs/small_voice_log.md compares the settings.
"""

from bark_tf.training import CodecOptions, Recipe, TrainingOptions
from bark_tf.training.recipes.open_voice._start import start

RECIPE = Recipe(
    stage="codec",
    start=start,
    batch_size=2,
    codec=CodecOptions(
        segment_s=1.0,
        quantize_from=1_500,
        codebook_dropout=0.25,
        weights={"waveform": 0.05, "commitment": 0.02},
    ),
    sample_every=1_000,
    options=TrainingOptions(
        steps=24_000,
        learning_rate=2e-3,
        warmup_steps=200,
        final_share=0.05,
        weight_decay=0.0,
        clip_norm=5.0,
        ema=0.999,
        checkpoint_every=500,
        validate_every=2_000,
    ),
)
