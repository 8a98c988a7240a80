r"""Bark-small in a voice of your own, all weights: from an hour or two of one speaker.

    bark-tf prepare my-recordings prepared --model suno/bark-small \
        --semantic-tokenizer hubert --validation 0.05 --keep-audio
    bark-tf train bark_small_full --set data=prepared out=my-voice
    bark-tf voice me.wav --out me.npz --model my-voice --semantic-tokenizer hubert
    bark-tf speak "Hello" --model my-voice --voice me.npz
    bark-tf evaluate my-voice prepared --before suno/bark-small --out report

For what LoRA does not reach: another language or accent, a manner of speaking, many
hours. From minutes it forgets more than it learns; take bark_small_lora, whose text
tells about hubert, recordings and listening, all of which holds here too.

Data: one to two hours at least (900 clips of 6 s are 1.5 hours), better ten. A second
speaker in the data keeps other voices alive.

Cost, ESTIMATED from single steps of bark-small's sizes on two busy CPU cores in float32
(3.8, 4.4 and 4.2 seconds for one example of semantic, coarse and fine, at most 5.7 GiB;
see benchmarks/results/2026-11-26-train-step.md); no whole run has been timed:

    2 CPU cores     5 h + 6 h + 3 h, validation and samples apart; 6 GiB a stage, so
                    take one at a time (`--stages`: TensorFlow keeps for later what a
                    stage has used), and 1.7 GB more where samples are made
    16 GB GPU       under an hour, if it is twenty times as fast as those cores (28 % of
                    a T4's 8 TFLOP/s); not measured. `--set batch_size=4 accumulate=2
                    warmup_steps=40 steps=1200 fine.steps=600` learns as much, in about
                    12 GiB; `gradient_checkpointing=True` takes less, and longer

Why these numbers. Weights, gradients and AdamW's two memories are four copies, so one
example per step and eight per update. 4,800 steps are 600 updates, five times through
900 clips; fine needs half, as it learns from every window of a clip. A rate of 2e-5 is
a fifth of what others took for 5,000 clips, and over-fitted with. Weight decay and
dropout do little against that; to stop in time does more.

Over-fitting, which has been reported of all three stages, starts where `val_loss` of
held-out texts rises; it is looked at every 200 steps, and the best weights are kept
(patience). If it rises from the start there is too little data: use bark_small_lora.

Listen to: what bark_small_lora names, and to a voice that is not in the data: it is the
first thing that all weights forget.
"""

from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = [
    Recipe(
        stage=stage,
        model="suno/bark-small",
        batch_size=1,
        dropout=0.1,
        history_probability=0.5,
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
