import numpy as np
import pytest
import toy
import toy_trainer

from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.training.data.shards import DatasetInfo, Utterance, shard_path, write_shard


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The final weights of a run that nothing stopped."""
    return toy_trainer.final_weights(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A toy Bark in `model`, and recordings of random tokens in `data`."""
    directory = tmp_path_factory.mktemp("prepared")
    toy.bark().save_pretrained(directory / "model")
    words = ["[PAD]", "[UNK]", "a", "b"]
    BarkProcessor(BarkTokenizer.from_vocabulary(words)).save_pretrained(
        directory / "model"
    )
    info = DatasetInfo(
        sample_rate=24_000,
        has_tokens=True,
        has_audio=False,
        num_codebooks=4,
        codebook_size=8,
        frame_rate=75.0,
        semantic_vocab_size=20,
        semantic_rate_hz=49.9,
        text_vocab_size=8,
    )
    for number, part in enumerate(("train", "validation")):
        (directory / "data" / part).mkdir(parents=True)
        info.save(directory / "data" / part)
        rng = np.random.default_rng(number)
        rows = [
            Utterance(
                id=str(i),
                text="a b",
                speaker="a",
                text_ids=rng.integers(0, 8, 5),
                semantic=rng.integers(0, 20, count),
                codes=rng.integers(0, 8, (4, 3 * count // 2)),
                audio=None,
            )
            for i, count in enumerate([2, 30, 4, 8, 20, 6, 12, 3])
        ]
        write_shard(shard_path(directory / "data" / part, 0), rows, info)
    return directory
