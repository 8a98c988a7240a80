"""What a run has written is checked when it is read again."""

import json

import pytest

from bark_tf.training.runs.log_file import read_log
from bark_tf.training.runs.records import read_done, read_record

RECORD = {
    "recipe": {"steps": 4, "model": None, "data": "d", "method": "full"},
    "data": {"recordings": 1, "held_out": 0, "hours": 0.5, "speakers": ["a"]},
    **dict.fromkeys(("model_fingerprint", "data_fingerprint", "bark_tf"), "0"),
    "others": "out",
}
DONE = {"stage": "fine", "steps": 4, "last": {"step": 4.0}}


@pytest.mark.parametrize(
    ("read", "good", "changes", "message"),
    [
        (read_record, RECORD, {"recipe": []}, "recipe must be an object"),
        (read_record, RECORD, {"recipe": {"steps": "4"}}, "steps must be a whole"),
        (read_record, RECORD, {"data": {"hours": None}}, "recordings must be a whole"),
        (
            read_record,
            RECORD,
            {"others": "elsewhere"},
            "others must be 'model' or 'out'",
        ),
        (
            read_record,
            RECORD,
            {"model_fingerprint": 1},
            "model_fingerprint must be text",
        ),
        (read_done, DONE, {"last": {}}, "step must be a number"),
        (read_done, DONE, {"steps": 0}, "steps must be a whole number in"),
    ],
)
def test_a_damaged_record_is_one_error(read, good, changes, message, tmp_path):
    """They once were a KeyError or a TypeError in the middle of a run."""
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(good))
    assert read(path) == good
    path.write_text(json.dumps({**good, **changes}))
    with pytest.raises(ValueError, match=rf"recipe\.json: {message}"):
        read(path)


@pytest.mark.parametrize("line", ['{"step"', "[]", '{"loss": 1}', '{"step": "4"}'])
def test_a_log_ends_before_a_damaged_line(line, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 3, "loss": 0.5}}\n{line}\n{{"step": 5}}\n')
    assert read_log(path) == [{"step": 3, "loss": 0.5}]
