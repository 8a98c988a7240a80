"""What bfloat16 and quantized weights cost in quality, beside float32.

    python benchmarks/quality.py                     # the voice that ships, 40 texts
    python benchmarks/quality.py --recogniser moonshine --similarity resemblyzer
    python benchmarks/quality.py --model DIR --texts lines.txt --kinds int8

float32 speaks the texts. Each kind then computes logits for the same tokens, stage by
stage: the error is the root of the mean squared difference over the standard deviation
of float32's logits, and the agreement is the share of greedy choices that are the same.
Each kind also speaks the texts itself, with the same seeds, as greedy choices that
differ say little of what is heard: words that a recogniser gets wrong, with a 95 %
interval over texts, and the similarity of its voice to float32's, beside that of
float32 with other seeds, which is what chance alone makes. The last line of the output
is one JSON object.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from bark_tf import BarkModel, BarkProcessor
from bark_tf.training import (
    TRAINERS,
    Batches,
    ExampleOptions,
    StageExamples,
    Utterance,
    corpus_word_error_rate,
    cosine_similarity,
    recogniser_of,
    voice_judge_of,
)

WORDS = "zero one two three four five six seven eight nine".split()
KINDS = {
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
PARTS = {"semantic": "semantic", "coarse": "coarse_acoustics", "fine": "fine_acoustics"}


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="checkpoint; default: the voice that ships")
    parser.add_argument("--texts", help="file of lines; default: random digits")
    parser.add_argument("--count", type=int, default=40, help="texts")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--recogniser", help="as of `bark-tf evaluate`")
    parser.add_argument("--similarity", help="as of `bark-tf evaluate`")
    return parser.parse_args(arguments)


def texts_of(args):
    if args.texts:
        lines = Path(args.texts).read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.strip()][: args.count]
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 5)) for _ in range(args.count)]


# === Speaking ===


def speak(model, processor, texts, first_seed=0):
    """What a model says to each text, as recordings with tokens and audio."""
    utterances = []
    for seed, text in enumerate(texts, first_seed):
        inputs = processor(text, return_tensors="np")
        out = model.generate(**inputs, seed=seed, return_dict=True)
        if out.voice is None:
            raise SystemExit(f"the model says nothing to {text!r}: leave it out")
        ids = inputs["input_ids"][inputs["attention_mask"] > 0]
        voice, audio = out.voice, np.asarray(out.audio)[0, : out.lengths[0]]
        tokens, codes = voice.semantic_prompt, voice.fine_prompt
        utterances.append(Utterance(text, text, "one", ids, tokens, codes, audio))
    return utterances


def judged(utterances, args, rate, like=None):
    """Word errors of recordings, and similarity to voices; the recordings' voices."""
    audios, found, voices = [one.audio for one in utterances], {}, None
    if args.recogniser:
        recogniser = recogniser_of(args.recogniser)
        heard = [recogniser(audio, rate) for audio in audios]
        errors = corpus_word_error_rate([one.text for one in utterances], heard)
        found["wer"] = [errors.rate, errors.low, errors.high]
    if args.similarity:
        judge = voice_judge_of(args.similarity)
        voices = [judge(audio, rate) for audio in audios]
        if like is not None:
            found["similarity"] = float(
                np.mean(list(map(cosine_similarity, voices, like)))
            )
    return found, voices


# === Logits ===


def logits_of(model, utterances):
    """Stage -> logits of all targets, (targets, vocabulary)."""
    config, options = model.generation_config, ExampleOptions(history_probability=0.0)
    found = {}
    for stage, part in PARTS.items():
        network = model.parts[part]
        examples = StageExamples(utterances, stage, config, network.config, options)
        batches = Batches(examples, 1, shuffle=False)
        trainer, rows = TRAINERS[stage](network, config), []
        for step in range(batches.steps_per_epoch):
            batch = batches(step)
            logits = np.asarray(trainer(batch), np.float32)
            rows.append(logits[batch["targets"] >= 0])  # others are ignored
        found[stage] = np.concatenate(rows)
    return found


def compare_logits(ours, reference):
    """Stage -> error of the logits and share of equal greedy choices."""
    return {
        stage: {
            "error": float(
                np.sqrt(np.mean((ours[stage] - reference[stage]) ** 2))
                / reference[stage].std()
            ),
            "agreement": float(
                np.mean(ours[stage].argmax(-1) == reference[stage].argmax(-1))
            ),
        }
        for stage in PARTS
    }


# === All ===


def measure(args):
    """Kind -> what was found."""
    texts, named = texts_of(args), [args.model] if args.model else []
    processor = BarkProcessor.from_pretrained(*named)
    model = BarkModel.from_pretrained(*named)
    rate = model.sampling_rate
    utterances = speak(model, processor, texts)
    reference, found = logits_of(model, utterances), {}
    listens = args.recogniser or args.similarity
    if listens:
        found["float32"], voices = judged(utterances, args, rate)
        others = speak(model, processor, texts, first_seed=len(texts))
        found["float32, other seeds"], _ = judged(others, args, rate, voices)
    for kind in args.kinds:
        model = BarkModel.from_pretrained(*named, **KINDS[kind])
        stages = compare_logits(logits_of(model, utterances), reference)
        found[kind] = {"stages": stages}
        if listens:
            own = speak(model, processor, texts)
            found[kind] |= judged(own, args, rate, voices)[0]
    return found


def show(found):
    titles = [f"{stage} {what}" for stage in PARTS for what in ("error", "agrees")]
    print(f"{'':22}" + "".join(f"{title:>17}" for title in titles))
    for kind, values in found.items():
        line = f"{kind:22}"
        for stage in PARTS if "stages" in values else ():
            one = values["stages"][stage]
            line += f"{one['error']:17.4f}{one['agreement']:17.1%}"
        if "wer" in values:
            line += "   wrong words {:.1%} ({:.1%} to {:.1%})".format(*values["wer"])
        if "similarity" in values:
            line += f"   similarity {values['similarity']:.3f}"
        print(line)


def main():
    args = parse()
    found = measure(args)
    show(found)
    print(json.dumps({"arguments": vars(args), "kinds": found}))


if __name__ == "__main__":
    main()
