r"""Bark-small in a voice of your own, by LoRA: 10 minutes to an hour of one speaker.

    bark-tf prepare my-recordings prepared --model suno/bark-small \
        --semantic-tokenizer hubert --validation 0.05 --keep-audio
    bark-tf train bark_small_lora --set data=prepared out=my-voice
    bark-tf voice me.wav --out me.npz --model my-voice --semantic-tokenizer hubert
    bark-tf speak "Hello" --model my-voice --voice me.npz
    bark-tf evaluate my-voice prepared --before suno/bark-small --out report

hubert is a directory with HuBERT and a quantizer for your language: the published Bark
has no semantic tokenizer of its own. Try a voice alone (`bark-tf voice`) before you
train: it costs nothing, and it may be near enough.

Data: clips of 3 to 13 seconds that end where a sentence ends, with their exact words,
one room and one microphone. Ten minutes move the sound of the voice, an hour its manner
too. Much more is for bark_small_full. What the quantizer hears wrong is learned as it
hears it.

Cost, ESTIMATED from single steps of bark-small's sizes on two busy CPU cores in float32
(3.4, 4.3 and 4.2 seconds for one example of semantic, coarse and fine, 3.3 GiB; see
benchmarks/results/2026-11-26-train-step.md); no whole run has been timed:

    2 CPU cores     1.5 h + 1.9 h + 0.9 h, validation and samples apart; the peaks of
                    the stages are 4.1, 4.9 and 5.6 GiB, writing the last takes 6.2,
                    since TensorFlow keeps for later what a stage has used: with
                    `--stages semantic`, then `coarse`, then `fine`, they are 4.1, 4.4
                    and 4.7. 1.7 GB more where samples are made
    16 GB GPU       a quarter of an hour, if it is twenty times as fast as those cores
                    (28 % of a T4's 8 TFLOP/s); not measured. `--set batch_size=4
                    accumulate=2 warmup_steps=20 steps=400 fine.steps=200` learns as
                    much, in about 10 GiB

Why these numbers. One example per step and eight per update: the least memory, with
updates as calm as those of 8 clips. 1,600 steps are 200 updates, five times through 300
clips (half an hour); fine needs half, as it learns from every window of a clip. A rate
of 1e-4 is half of what `lora` takes for models that start further away. Rank 16 adds
2.4 million values per transformer: enough for a voice, too few to know clips by heart.
Dropout as further noise. Half of the examples open with another clip of the speaker, as
speaking with a voice does, so that `--voice` still works.

Over-fitting is what others report: after 15 rounds over 5,000 clips the losses were
0.003, 0.06 and 0.1 where held-out clips had 1.3, 3.3 and 1.2; words were skipped, the
voice shivered, [laughs] was lost. Hence few rounds; `val_loss` of held-out texts every
100 steps, and the best weights are kept (patience); a run that ends early is a good
one. Leave --validation on. If a stage gets worse to the ear all the same, take fewer
steps of it: `--set semantic.steps=400`.

Listen to: the samples of held-out texts in TensorBoard, the same text before and after
at one --seed, a long sentence (are words skipped?), a text with [laughs], one with
another voice (does it still sound like that one?), and silence at the end.
"""

from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.runs.recipe import Recipe

RECIPE = [
    Recipe(
        stage=stage,
        method="lora",
        model="suno/bark-small",
        lora_rank=16,
        batch_size=1,
        dropout=0.1,
        history_probability=0.5,
        sample_every=400,
        options=TrainingOptions(
            steps=steps,
            learning_rate=1e-4,
            weight_decay=0.0,
            warmup_steps=80,  # 10 updates
            accumulate=8,
            validate_every=100,
            checkpoint_every=200,
            patience=4,
        ),
    )
    for stage, steps in (("semantic", 1_600), ("coarse", 1_600), ("fine", 800))
]
