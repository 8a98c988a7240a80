"""Greedy tokens of transformers at the real vocabularies, without transformers.

Made by `tests/data/make_generation_golden.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import toy

from bark_tf.bark import BarkModel
from bark_tf.config import BarkConfig
from bark_tf.convert import bark as names
from bark_tf.convert import rules

GOLDEN = Path(__file__).parents[2] / "data" / "generation_golden.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def output():
    """All rows in one batch, each with its own voice or none."""
    bark = BarkModel(BarkConfig.preset("tiny"))
    parts = list(bark.parts.values())[:3]
    for stage, part in zip(toy.GOLDEN_STAGES, parts, strict=True):
        table, variables = names.table(part.config), rules.variables_of(part)
        for rule, values in toy.golden_tensors(stage, table):
            variables[rule.ours].assign(rule.operation.to_ours(values))
    texts, counts = zip(*toy.GOLDEN_ROWS, strict=True)
    ids, masks = zip(*map(toy.bark_text, texts), strict=True)
    return bark.generate(
        np.stack(ids),
        list(map(toy.bark_voice, counts)),
        attention_mask=np.stack(masks),
        semantic_max_new_tokens=toy.GOLDEN_MAX_NEW_TOKENS,
        return_dict=True,
        jit_compile=False,
    )


@pytest.mark.parametrize("row", range(len(toy.GOLDEN_ROWS)))
def test_tokens_are_those_of_transformers(golden, output, row):
    semantic, coarse, fine = (
        golden[f"{stage}_{row}"] for stage in ("semantic", "coarse", "fine")
    )
    frames = fine.shape[1]
    assert output.lengths[row] == 320 * frames
    np.testing.assert_array_equal(output.semantic[row, : len(semantic)], semantic)
    assert np.all(output.semantic[row, len(semantic) :] == 10_000)
    np.testing.assert_array_equal(
        output.coarse[row, :, :frames], coarse.reshape(-1, 2).T - [[10_000], [11_024]]
    )
    np.testing.assert_array_equal(output.fine[row, :, :frames], fine)
