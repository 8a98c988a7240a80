from toy_cli import only_line

from bark_tf.cli.main import main
from bark_tf.config import PRESETS


def test_a_checkpoint_is_converted(checkpoint, tmp_path, capsys):
    destination = tmp_path / "converted"
    arguments = ["--dtype", "float16", "--max-shard-size", "10MB"]
    assert main(["convert", checkpoint, str(destination), *arguments]) == 0
    assert only_line(capsys) == f"bark-tf: {str(destination)!r}"
    names = {path.name for path in destination.iterdir()}
    assert {"config.json", "tokenizer.json", "speaker_embeddings_path.json"} <= names
    assert main(["convert", checkpoint, str(destination)]) == 1
    assert "is not empty" in only_line(capsys)


def test_arguments_of_convert_are_passed_on(monkeypatch):
    calls = []

    def convert_checkpoint(*places, progress, **options):
        progress("tensor", 10**6, 2 * 10**6)
        calls.append((*places, options))
        return places[1]

    name = "bark_tf.convert.convert.convert_checkpoint"
    monkeypatch.setattr(name, convert_checkpoint)
    assert main(["convert", "a.pt", "b.pt", "out"]) == 0
    options = ["--names", "suno", "--codec", "c.th", "--config", "tiny", "--overwrite"]
    assert main(["convert", "a", "out", *options]) == 0
    assert calls[0][:2] == (["a.pt", "b.pt"], "out")
    assert calls[1] == (
        "a",
        "out",
        {
            "names": "suno",
            "dtype": None,
            "max_shard_size": "5GB",
            "codec": "c.th",
            "config": PRESETS["tiny"],
            "overwrite": True,
        },
    )
