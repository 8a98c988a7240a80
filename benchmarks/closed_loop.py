"""Does the loop close? What a model spoke, heard again: its codes and its tokens.

    bark-tf train-tokenizer pairs quantizer --kind quantizer --make-pairs a.txt \\
        --model MODEL --hubert HUBERT
    python benchmarks/closed_loop.py pairs --model MODEL --semantic-tokenizer quantizer

The held-out pairs hold audio, and the semantic tokens and codes that it was made of.
Each is heard by the codec, by every semantic tokenizer, and as a recording of which
`make_voice` makes a preset with the first of these. Told is the share of codes and
tokens that are found again in their place. The last line of the output is one JSON
object.
"""

import argparse
import collections
import json
import tempfile
from pathlib import Path

import numpy as np

from bark_tf import EncodecModel, hub
from bark_tf.audio.writing import write_audio
from bark_tf.semantic_tokens import load_semantic_tokenizer
from bark_tf.training.data.shards import ShardSet
from bark_tf.training.tokenizers.quantizer import quantizer_score
from bark_tf.voices.cloning import first_codes, make_voice


class Agreement(collections.defaultdict):
    """Key -> [found, all]."""

    def __init__(self):
        super().__init__(lambda: [0, 0])

    def add(self, key, spoken, found):
        """Counts what two rows have in common, over the length of the shorter."""
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


def hear_preset(agreement, pair, codec, arguments, tokenizer):
    """Makes a preset of a pair's audio; whether there was enough of it."""
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
    parser.add_argument("--model", help="that spoke them; default: the one that ships")
    parser.add_argument(
        "--semantic-tokenizer", nargs="+", default=[], metavar="DIR",
        help="tokenizers of the model's tokens; the first makes the presets",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="pairs at most")
    return parser.parse_args()


def main():
    arguments = parse()
    arguments.model = arguments.model or hub.shipped_checkpoint()
    shards = ShardSet(arguments.pairs / "validation")
    count = min(len(shards), arguments.limit or len(shards))
    codec = EncodecModel.from_pretrained(arguments.model)
    names = arguments.semantic_tokenizer
    tokenizers = [load_semantic_tokenizer(name) for name in names]
    agreement, presets = Agreement(), 0
    for pair in (shards[number] for number in range(count)):
        found = first_codes(codec, pair.audio, len(pair.codes))
        add_codes(agreement, "codec", pair.codes, found)
        if tokenizers:
            presets += hear_preset(agreement, pair, codec, arguments, tokenizers[0])
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
