r"""Full fine-tuning of Bark-small on your own voice: an hour or more of one speaker.

    bark-tf prepare my-recordings prepared --model suno/bark-small \
        --semantic-tokenizer hubert --validation 0.05 --keep-audio
    bark-tf train bark_small_full --set data=prepared out=my-voice
    bark-tf voice me.wav --out me.npz --model my-voice --semantic-tokenizer hubert
    bark-tf speak "Hello" --model my-voice --voice me.npz
    bark-tf evaluate my-voice prepared --before suno/bark-small --out report

Use it where LoRA falls short: another language or accent, a manner of speaking, many
hours of speech. On minutes it forgets more than it learns; use bark_small_lora, whose
notes on hubert, recordings and listening apply here too.

Data: at least one to two hours (900 clips of 6 s are 1.5 hours), better ten. A second
speaker in the data keeps other voices working.

Cost, ESTIMATED from single steps at bark-small's sizes on two busy CPU cores in float32
(3.8, 4.4 and 4.2 seconds for one example of semantic, coarse and fine, at most 5.7 GiB;
see benchmarks/results/2026-11-26-train-step.md); no whole run has been timed:

    2 CPU cores     5 h + 6 h + 3 h, plus validation and samples. A stage takes 6 GiB;
                    TensorFlow does not return memory, so run one stage at a time with
                    `--stages`. Samples take 1.7 GB more
    16 GB GPU       under an hour if it is twenty times as fast as those cores (28 % of
                    a T4's 8 TFLOP/s); not measured. `--set batch_size=4 accumulate=2
                    warmup_steps=40 steps=1200 fine.steps=600` trains as much, in about
                    12 GiB; `gradient_checkpointing=True` saves memory and takes longer

Why these values. Weights, gradients and AdamW's two moments are four copies of the
weights, which leaves room for one example per step; eight make an update. 4,800 steps
are 600 updates, five epochs of 900 clips. Fine takes half, as every window of a clip is
an example. The learning rate of 2e-5 is a fifth of what others used, and over-fitted
with, on 5,000 clips. Against over-fitting, early stopping helps more than weight decay
and dropout.

Over-fitting has been reported for all three stages. It starts where `val_loss` on
held-out texts rises. The run validates every 200 steps and keeps the best weights
(patience). If `val_loss` rises from the start there is too little data: use
bark_small_lora.

Listen for what bark_small_lora lists, and to a voice that is not in the data: full
fine-tuning forgets other voices first.
"""

from bark_tf.training import Recipe, TrainingOptions

RECIPE = [
    Recipe(
        stage=stage,
        model="suno/bark-small",
        batch_size=1,
        dropout=0.1,
        sample_every=1_200,
        options=TrainingOptions(
            steps=steps,
            learning_rate=2e-5,
            weight_decay=0.01,
            warmup_steps=160,  # 20 updates
            accumulate=8,
            validate_every=200,
            checkpoint_every=400,
            patience=4,
        ),
    )
    for stage, steps in (("semantic", 4_800), ("coarse", 4_800), ("fine", 2_400))
]
