"""A small Bark from nothing: one voice, 147 words, digits. Its steps, in order.

    bark-tf prepare SPEECH audio --sample-rate 16000 --validation 0.05
    bark-tf train small_voice/codec --set data=audio out=small
    bark-tf train-tokenizer audio small
    bark-tf prepare SPEECH/kumo tokens --model small --validation 0.05
    bark-tf train small_voice/semantic --set model=small data=tokens out=small
    bark-tf train small_voice/coarse --set model=small data=tokens out=small
    bark-tf train small_voice/fine --set model=small data=tokens out=small
    bark-tf speak "four zero eight two six" --model small

Every step goes on where it was when it is started again.
"""
