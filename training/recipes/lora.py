"""LoRA fine-tuning of a small model on ten minutes of a new speaker.

    bark-tf prepare my-recordings prepared --model MODEL --validation 0.1
    bark-tf train lora --set model=MODEL data=prepared out=my-voice
    bark-tf speak "Hello" --model my-voice

MODEL needs its own semantic tokenizer, which the published Bark lacks: see
`bark-tf train-tokenizer`. For Bark itself use `bark_small_lora`, which explains more.
`my-voice` is the merged model, `my-voice/adapters` holds the adapters alone.

Cost: 15 minutes on two CPU cores for the voice that ships (15 million weights) and 359
clips. The time per step grows with the model: bark-small would take 6.7 hours there,
ESTIMATED from single steps (4.3 and 4.2 seconds for one example of coarse and fine; see
bark_small_lora). `bark-tf train` shows the time that your run needs after five steps.

Why these values: docs/training.md shows what they do to a new speaker's similarity and
to the word error rate. The text stage keeps its weights, because a few hundred texts
are too few for it: training it made words wrong. With an hour of speech or more,
`--set coarse.steps=2000 fine.steps=400` trains longer, and `bark_small_lora` with
`--set model=MODEL` trains the text stage too. The fine stage needs few steps, as every
window of a clip is an example. The run validates every 100 steps, keeps the best
weights and stops when `val_loss` has not improved twice (patience).
"""

from bark_tf.training import ExampleOptions, LoraOptions, Recipe, TrainingOptions

RECIPE = [
    Recipe(
        stage=stage,
        method="lora",
        lora=LoraOptions(rank=16),
        batch_size=8,
        dropout=0.1,
        examples=ExampleOptions(history_probability=0.3),
        options=TrainingOptions(
            steps=steps,
            learning_rate=2e-3,
            weight_decay=0.0,
            warmup_steps=20,
            validate_every=100,
            checkpoint_every=100,
            patience=2,
        ),
    )
    for stage, steps in (("coarse", 600), ("fine", 100))
]
