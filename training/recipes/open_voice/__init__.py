"""A small Bark from scratch that speaks any English text, step by step.

    python -m bark_tf.training.recipes.open_voice._make_speech TEXTS SPEECH --others 700
        --word-lists 20000
    bark-tf prepare SPEECH/train/phonemes.jsonl phonemes --sample-rate 16000
        --validation 0.02 --silence 0.25
    bark-tf train-tokenizer phonemes open --kind ctc --clusters 1000 --rate 50
        --steps 4200 --batch-size 12 --optimizer muon
    bark-tf train open_voice/codec --set data=phonemes out=open
        codec.recogniser=open
    bark-tf prepare SPEECH/train tokens --model open --validation 0.02 --silence 0.25
        --keep-audio
    bark-tf train open_voice/semantic --set model=open data=tokens out=open
    bark-tf train open_voice/coarse --set model=open data=tokens out=open
    bark-tf train open_voice/fine --set model=open data=tokens out=open
    bark-tf evaluate open tokens --recogniser moonshine --out report
    python -m bark_tf.training.recipes.open_voice._for_transformers open whole
    bark-tf convert whole voice --dtype float16
    bark-tf speak "Room 42 is on the left." --model voice --out speech.wav

`_make_speech` runs in an environment of its own, where the teacher is installed; its
docstring says how. TEXTS is a file with a sentence per line. Every step resumes when it
is started again, and says what it will cost before it starts.

What it made comes with the package: `bark_tf/assets`, whose README.md has the figures.
"""
