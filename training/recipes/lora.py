"""LoRA fine-tuning of all three transformers on your own voice, with little memory.

    bark-tf prepare my-recordings prepared --model MODEL --validation 0.05
    bark-tf train lora --set model=MODEL data=prepared out=my-voice
    bark-tf speak "Hello" --model my-voice

MODEL needs its own semantic tokenizer, which the published Bark lacks: see
`bark-tf train-tokenizer`. `my-voice` is the merged model, `my-voice/adapters` holds the
adapters alone. Listen to the samples and watch `val_loss` in the log: once it rises,
the run has gone on for too long.
"""

from bark_tf.training import LoraOptions, Recipe, TrainingOptions

RECIPE = [
    Recipe(
        stage=stage,
        method="lora",
        lora=LoraOptions(rank=16),
        batch_size=2,
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
