"""A small Bark from scratch that speaks 147 words and digits, step by step.

    bark-tf prepare SPEECH audio --sample-rate 16000 --validation 0.05 --silence 0.1
    bark-tf train small_voice/codec --set data=audio out=small
    bark-tf train-tokenizer audio small
    bark-tf prepare SPEECH tokens --model small --validation 0.05 --silence 0.25
        --keep-audio
    python -m bark_tf.training.recipes.small_voice._splice_speech SPEECH/kumo
        spliced/kumo --lines 10000
    python -m bark_tf.training.recipes.small_voice._splice_speech SPEECH/alpha
        spliced/alpha --lines 4000
    bark-tf prepare spliced texts --model small --validation 0.05 --silence 0.25
    bark-tf train small_voice/semantic --set model=small data=texts out=small
    bark-tf train small_voice/coarse --set model=small data=tokens out=small
    bark-tf train small_voice/fine --set model=small data=tokens out=small
    bark-tf evaluate small tokens --texts held_out.txt --words words.txt
        --recogniser pocketsphinx --out report
    bark-tf convert small assets --dtype float16
    bark-tf speak "four zero eight two six" --model assets --out speech.wav

`_make_speech` makes SPEECH, a folder per speaker; `words.txt` and `held_out.txt` are
beside this file. The recordings start hard at the first sound, where pocketsphinx hears
extra words, hence the silence. kumo is the default speaker; alpha is there so that
other voices can be learned. Every step resumes when it is started again. To train the
shipped model instead of a new one, copy the package's folder `assets` to `small` and
skip the codec and the tokenizer.
"""
