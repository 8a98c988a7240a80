"""Arguments of `train-tokenizer`; `tests/training/tokenizers` runs what it does."""

import pytest

from bark_tf.cli.main import main
from bark_tf.training.tokenizers import ctc


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--kind quantizer", "needs a --hubert"),
        ("--kind quantizer --hubert h --clusters 3", "is for --kind kmeans or ctc"),
        ("--kind ctc --hubert h", "for --kind quantizer. Received: --kind ctc"),
        ("--steps 3", "--steps is for --kind ctc or quantizer"),
        ("--optimizer muon", "--optimizer is for --kind ctc"),
        ("--kind quantizer --hubert h --start d", "--start is for --kind ctc"),
        ("--kind ctc", "vocab_size and rate_hz must be given"),
        ("--kind ctc --clusters 9 --rate 50", "no folder 'train'"),
        ("--hubert h", "--hubert is for --kind quantizer"),
        ("--make-pairs t", "--make-pairs is for --kind quantizer"),
        ("--kind quantizer --hubert h --model m", "--model is for --make-pairs"),
        ("--kind quantizer --hubert h --make-pairs absent.txt", "absent.txt"),
        ("--kind quantizer --hubert h", "holds no pairs"),
    ],
)
def test_arguments_of_train_tokenizer_that_do_not_go_together(
    tmp_path, words, message, capsys
):
    where = [str(tmp_path / "pairs"), str(tmp_path / "out")]
    assert main(["train-tokenizer", *where, *words.split()]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_arguments_of_ctc_reach_its_training(monkeypatch):
    seen = {}

    def train_ctc(data, out, **arguments):
        seen.update(arguments)
        raise ValueError("seen")

    monkeypatch.setattr(ctc, "train_ctc", train_ctc)
    words = (
        "train-tokenizer data out --kind ctc --optimizer muon --start from --steps 7"
    )
    assert main(words.split()) == 1
    assert seen["start"] == "from" and seen["options"].steps == 7
    assert seen["options"].optimizer == "muon"
