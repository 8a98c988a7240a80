"""Fine-tuning all weights of the three transformers on your own voice.

    bark-tf prepare my-recordings prepared --model MODEL --validation 0.05
    bark-tf train full --set model=MODEL data=prepared out=my-voice
    bark-tf speak "Hello" --model my-voice

Learns more than LoRA from hours of speech and forgets more on minutes. AdamW stores two
more copies of the weights.
"""

from bark_tf.training import Recipe, TrainingOptions

RECIPE = [
    Recipe(
        stage=stage,
        gradient_checkpointing=True,
        batch_size=2,
        sample_every=500,
        options=TrainingOptions(
            steps=steps,
            learning_rate=2e-5,
            weight_decay=0.01,
            warmup_steps=100,
            accumulate=4,
            validate_every=200,
            checkpoint_every=200,
            patience=5,
        ),
    )
    for stage, steps in (("semantic", 4_000), ("coarse", 4_000), ("fine", 2_000))
]
