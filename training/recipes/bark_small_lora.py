r"""LoRA fine-tuning of Bark-small on your own voice: 10 to 60 minutes of one speaker.

    bark-tf prepare my-recordings prepared --model suno/bark-small \
        --semantic-tokenizer hubert --validation 0.05 --keep-audio
    bark-tf train bark_small_lora --set data=prepared out=my-voice
    bark-tf voice me.wav --out me.npz --model my-voice --semantic-tokenizer hubert
    bark-tf speak "Hello" --model my-voice --voice me.npz
    bark-tf evaluate my-voice prepared --before suno/bark-small --out report

hubert is a directory with HuBERT and a quantizer for your language: the published Bark
has no semantic tokenizer. Before you train, try a voice prompt alone (`bark-tf voice`):
it costs nothing and may be close enough.

Data: clips of 3 to 13 seconds that end with a sentence, with exact transcripts, from
one room and one microphone. Ten minutes change the sound of the voice, an hour also its
manner. For much more use bark_small_full. The model learns the quantizer's errors, too.

Cost, ESTIMATED from single steps at bark-small's sizes on two busy CPU cores in float32
(3.4, 4.3 and 4.2 seconds for one example of semantic, coarse and fine, 3.3 GiB; see
benchmarks/results/2026-11-26-train-step.md); no whole run has been timed:

    2 CPU cores     1.5 h + 1.9 h + 0.9 h, plus validation and samples. The stages peak
                    at 4.1, 4.9 and 5.6 GiB, and writing the last takes 6.2, since
                    TensorFlow does not return memory. One at a time (`--stages
                    semantic`, then `coarse`, then `fine`) they peak at 4.1, 4.4 and
                    4.7. Samples take 1.7 GB more
    16 GB GPU       a quarter of an hour if it is twenty times as fast as those cores
                    (28 % of a T4's 8 TFLOP/s); not measured. `--set batch_size=4
                    accumulate=2 warmup_steps=20 steps=400 fine.steps=200` trains as
                    much, in about 10 GiB

Why these values. One example per step and eight per update take the least memory and
give updates as smooth as a batch of 8. 1,600 steps are 200 updates, five epochs of 300
clips (half an hour). Fine takes half, as every window of a clip is an example. The
learning rate of 1e-4 is half of what `lora` uses for models that start further away.
Rank 16 adds 2.4 million weights per transformer: enough for a voice, too few to
memorise clips. Dropout adds noise. Half of the examples start with another clip of the
speaker, as generation with a voice prompt does, so `--voice` keeps working.

Over-fitting: others report that after 15 epochs of 5,000 clips the training losses were
0.003, 0.06 and 0.1 and the held-out ones 1.3, 3.3 and 1.2; the model skipped words, the
voice trembled, [laughs] was lost. So this recipe trains for few epochs, validates every
100 steps on held-out texts and keeps the best weights (patience). A run that stops
early is a good one. Keep --validation. If a stage sounds worse all the same, train it
for fewer steps: `--set semantic.steps=400`.

Listen to the samples of held-out texts in TensorBoard; to the same text before and
after with one --seed; to a long sentence (are words skipped?), a text with [laughs],
and another voice (does it still sound like itself?); and for silence at the end.
"""

from bark_tf.training import LoraOptions, Recipe, TrainingOptions

RECIPE = [
    Recipe(
        stage=stage,
        method="lora",
        model="suno/bark-small",
        lora=LoraOptions(rank=16),
        batch_size=1,
        dropout=0.1,
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
