"""A voice of your own, with little memory: LoRA on all three transformers.

    bark-tf prepare my-recordings prepared --model MODEL --validation 0.05
    bark-tf train lora --set model=MODEL data=prepared out=my-voice
    bark-tf speak "Hello" --model my-voice

MODEL needs a semantic tokenizer of its own, which the published Bark has not: see
`bark-tf train-tokenizer`. The adapters alone are in my-voice/adapters, the merged model
in my-voice. Listen to the samples and to `val_loss` in the log: when it rises, the run
has gone on for too long.
"""

from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = [
    Recipe(
        stage=stage,
        method="lora",
        lora_rank=16,
        batch_size=2,
        history_probability=0.5,
        sample_every=500,
        options=TrainingOptions(
            steps=steps,
            learning_rate=2e-4,
            weight_decay=0.0,
            warmup_steps=100,
            accumulate=4,
            validate_every=200,
            checkpoint_every=200,
            patience=5,
        ),
    )
    for stage, steps in (("semantic", 4_000), ("coarse", 4_000), ("fine", 2_000))
]
