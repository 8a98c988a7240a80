"""Re-encodes what a model spoke: which share of its codes and tokens is recovered?

    bark-tf train-tokenizer pairs quantizer --kind quantizer --make-pairs a.txt \\
        --model MODEL --hubert HUBERT
    python benchmarks/closed_loop.py pairs --model MODEL --semantic-tokenizer quantizer

A held-out pair holds audio and the semantic tokens and codes that it was made of. Its
audio goes through the codec's encoder, through every semantic tokenizer, and through
`make_voice` with the first of them. The table shows the share of codes and tokens that
come back at the same position. The last line of the output is one JSON object.
"""

import argparse
import collections
import json
import tempfile
from pathlib import Path

import numpy as np

import bark_tf
from bark_tf import EncodecModel, load_semantic_tokenizer, make_voice, write_audio
from bark_tf.training import ShardSet, quantizer_score

SHIPPED = Path(bark_tf.__file__).with_name("assets")


class Agreement(collections.defaultdict):
    """Key -> [found, all]."""

    def __init__(self):
        super().__init__(lambda: [0, 0])

    def add(self, key, spoken, found):
        """Counts equal positions of two rows, over the length of the shorter."""
        count = min(len(spoken), len(found))
        self[key][0] += int(np.sum(spoken[:count] == found[:count]))
        self[key][1] += count

    def shares(self):
        """Key -> share, in the order of the first count."""
        return {key: found / count for key, (found, count) in self.items()}


def add_codes(agreement, what, spoken, found):
    """Counts each codebook."""
    for number, (mine, theirs) in enumerate(zip(spoken, found, strict=True)):
        agreement.add(f"{what}, codebook {number + 1}", mine, theirs)


def add_preset(agreement, pair, codec, arguments, tokenizer):
    """Makes a preset from a pair's audio; returns whether it was long enough."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "spoken.wav"
        write_audio(path, pair.audio, codec.config.sampling_rate)
        try:
            voice, report = make_voice(
                path, arguments.model, semantic_tokenizer=tokenizer
            )
        except ValueError:  # too short
            return False
    share = report.start_s / (len(pair.audio) / codec.config.sampling_rate)
    codes = pair.codes[:, round(share * pair.codes.shape[1]) :]
    add_codes(agreement, "preset", codes, voice.fine_prompt)
    tokens = pair.semantic[round(share * len(pair.semantic)) :]
    agreement.add("preset, semantic tokens", tokens, voice.semantic_prompt)
    return True


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path, help="what --make-pairs made")
    parser.add_argument(
        "--model", default=SHIPPED, help="what spoke them; default: the shipped voice"
    )
    parser.add_argument(
        "--semantic-tokenizer", nargs="+", default=[], metavar="DIR",
        help="tokenizers of the model's tokens; the first makes the presets",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="pairs at most")
    return parser.parse_args()


def main():
    arguments = parse()
    shards = ShardSet(arguments.pairs / "validation")
    count = min(len(shards), arguments.limit or len(shards))
    codec = EncodecModel.from_pretrained(arguments.model)
    names = arguments.semantic_tokenizer
    tokenizers = [load_semantic_tokenizer(name) for name in names]
    agreement, presets = Agreement(), 0
    for pair in (shards[number] for number in range(count)):
        codes = codec.encode(pair.audio[None], num_codebooks=len(pair.codes)).numpy()
        add_codes(agreement, "codec", pair.codes, codes[0])
        if tokenizers:
            presets += add_preset(agreement, pair, codec, arguments, tokenizers[0])
    results = {"pairs": count, "presets": presets, "shares": agreement.shares()}
    print(f"{presets} presets of {count} pairs")
    for key, share in results["shares"].items():
        print(f"{key:>40}: {share:7.1%}")
    for name, tokenizer in zip(names, tokenizers, strict=True):
        score = quantizer_score(tokenizer, shards)
        print(f"{name}, all held-out pairs:\n{score}")
        results[name] = {
            "accuracy": score.accuracy, "edit_distance": score.edit_distance
        }  # fmt: skip
    print(json.dumps(results))


if __name__ == "__main__":
    main()
