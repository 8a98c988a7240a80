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
import os
from pathlib import Path

import numpy as np

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


def loaded(args, **options):
    from bark_tf import BarkModel

    if args.model:
        return BarkModel.from_pretrained(args.model, **options)
    return BarkModel.from_pretrained(**options)


# === Logits ===


def spoken_tokens(model, processor, texts):
    """What a model says, as recordings with tokens."""
    from bark_tf.training.data.shards import Utterance

    utterances = []
    for number, text in enumerate(texts):
        inputs = processor(text, return_tensors="np")
        voice = model.generate(**inputs, seed=number, return_dict=True).voice
        if voice is not None:
            ids = inputs["input_ids"][inputs["attention_mask"] > 0]
            tokens, codes = voice.semantic_prompt, voice.fine_prompt
            utterances.append(Utterance(text, text, "one", ids, tokens, codes))
    return utterances


def logits_of(model, utterances):
    """Stage -> logits of all targets, (targets, vocabulary), and greedy choices."""
    from bark_tf.models.losses import IGNORED_LABEL
    from bark_tf.training.data.batches import Batches
    from bark_tf.training.data.examples import ExampleOptions, StageExamples
    from bark_tf.training.runs.trainers import TRAINERS

    found, options = {}, ExampleOptions(history_probability=0.0)
    for stage in PARTS:
        trainer = TRAINERS[stage](model.parts[PARTS[stage]], model.generation_config)
        config = model.parts[PARTS[stage]].config
        examples = StageExamples(
            utterances, stage, model.generation_config, config, options
        )
        batches = Batches(examples, 1, shuffle=False)
        rows = []
        for step in range(batches.steps_per_epoch):
            batch = batches(step)
            is_target = batch["targets"] != IGNORED_LABEL
            rows.append(np.asarray(trainer(batch), np.float32)[is_target])
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


# === Sound ===


def judged(model, processor, texts, args, seed=0, like=None):
    """Word errors of what a model says, and its similarity to other audios."""
    from bark_tf.training.evaluation.metrics import (
        cosine_similarity,
        error_rate,
        word_edits,
    )
    from bark_tf.training.evaluation.recognisers import recogniser_of, voice_judge_of
    from bark_tf.training.evaluation.scores import Speaker

    rate = model.sampling_rate
    audios = Speaker(model, processor, seed=seed).from_texts(texts).audios
    found = {}
    if args.recogniser:
        recogniser = recogniser_of(args.recogniser)
        heard = [recogniser(audio, rate) for audio in audios]
        errors = error_rate(map(word_edits, texts, heard))
        found["wer"] = [errors.rate, errors.low, errors.high]
    vectors = None
    if args.similarity:
        judge = voice_judge_of(args.similarity)
        vectors = [judge(audio, rate) for audio in audios]
    if like is not None and vectors is not None:
        pairs = zip(vectors, like, strict=True)
        found["similarity"] = float(np.mean([cosine_similarity(*two) for two in pairs]))
    return found, vectors


# === All ===


def measure(args):
    """Kind -> what was found."""
    from bark_tf import BarkProcessor

    texts = texts_of(args)
    processor = BarkProcessor.from_pretrained(*([args.model] if args.model else []))
    model = loaded(args)
    utterances = spoken_tokens(model, processor, texts)
    reference = logits_of(model, utterances)
    found, vectors = {}, None
    if args.recogniser or args.similarity:
        found["float32"], vectors = judged(model, processor, texts, args)
        again = judged(model, processor, texts, args, seed=1, like=vectors)
        found["float32, other seeds"] = again[0]
    for kind in args.kinds:
        model = loaded(args, **KINDS[kind])
        found[kind] = {
            "stages": compare_logits(logits_of(model, utterances), reference)
        }
        if args.recogniser or args.similarity:
            found[kind] |= judged(model, processor, texts, args, like=vectors)[0]
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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = measure(args)
    show(found)
    print(json.dumps({"arguments": vars(args), "kinds": found}))


if __name__ == "__main__":
    main()
