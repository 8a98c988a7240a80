"""Makes `generation_golden.npz`: tokens that transformers generates greedily.

Run with torch and transformers installed:
`python tests/data/make_generation_golden.py`.

Three tiny transformers with the real vocabularies; their weights are not stored but
drawn by `toy.golden_tensors`. Each text is spoken alone. transformers leaves some ids
after the last codebook open, which are forbidden here as Suno does.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers.models.bark.generation_configuration_bark as configs

from bark_tf.config import BarkConfig
from bark_tf.convert import bark as names

TESTS = Path(__file__).parents[1]
AFTER_CODES = list(range(12_048, 12_096))


def build(hf, toy, stage, config):
    """A transformers network with drawn weights."""
    config_class, model_class = hf.CLASSES[config.model_type]
    fields = config.to_dict()
    del fields["model_type"]
    network = model_class(config_class(**fields)).eval()
    tensors, table = network.state_dict(), names.table(config)
    for rule, values in toy.golden_tensors(stage, table):
        tensors[rule.theirs].copy_(torch.from_numpy(values))
    return network


@torch.no_grad()
def main():
    toy, hf = (
        SimpleNamespace(**runpy.run_path(str(TESTS / file)))
        for file in ("toy.py", "reference/hf_bark.py")
    )
    sizes = BarkConfig.preset("tiny")
    semantic = build(hf, toy, "semantic", sizes.semantic_config)
    coarse = build(hf, toy, "coarse", sizes.coarse_acoustics_config)
    fine = build(hf, toy, "fine", sizes.fine_acoustics_config)
    semantic_config = configs.BarkSemanticGenerationConfig(
        max_new_tokens=toy.GOLDEN_MAX_NEW_TOKENS
    )
    coarse_config = configs.BarkCoarseGenerationConfig()
    arrays = {}
    for row, (text_seed, num_semantic) in enumerate(toy.GOLDEN_ROWS):
        ids, mask = (hf.tensor(array[None]) for array in toy.bark_text(text_seed))
        voice = hf.voice(toy.bark_voice(num_semantic))
        tokens = semantic.generate(
            ids, semantic_config, history_prompt=voice, attention_mask=mask
        )
        is_token = tokens[0] != semantic_config.eos_token_id
        arrays[f"semantic_{row}"] = tokens[0, is_token].numpy()
        tokens = coarse.generate(
            tokens,
            semantic_config,
            coarse_config,
            history_prompt=voice,
            suppress_tokens=AFTER_CODES,
        )
        arrays[f"coarse_{row}"] = tokens[0].numpy()
        codes = fine.generate(
            tokens,
            semantic_config,
            coarse_config,
            configs.BarkFineGenerationConfig(),
            history_prompt=voice,
        )
        arrays[f"fine_{row}"] = codes[0].numpy()
    arrays = {name: array.astype(np.int16) for name, array in arrays.items()}
    np.savez_compressed(Path(__file__).with_name("generation_golden.npz"), **arrays)


if __name__ == "__main__":
    main()
