"""A voice of your own, all weights of all three transformers.

    bark-tf prepare my-recordings prepared --model MODEL --validation 0.05
    bark-tf train full --set model=MODEL data=prepared out=my-voice
    bark-tf speak "Hello" --model my-voice

Learns more than LoRA from hours of speech, and forgets more from minutes. AdamW keeps
two more copies of the weights.
"""

from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = [
    Recipe(
        stage=stage,
        gradient_checkpointing=True,
        batch_size=2,
        history_probability=0.5,
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
