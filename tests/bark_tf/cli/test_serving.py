import asyncio
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from toy_cli import TEXT, VOICES, only_line

from bark_tf import hub
from bark_tf.bark import BarkModel
from bark_tf.cli.arguments import TOKEN_VARIABLE
from bark_tf.cli.main import main

WAIT_S = 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "open to other machines: set a token"),
        (["--host", "::"], "open to other machines: set a token"),
        (["--alias", "alloy"], "--alias must be NAME=VOICE"),
        (["--max-batch", "3"], "invalid choice: 3"),
        (["--threads", "3"], "invalid choice: 3"),
        (["--token-file", os.devnull], "the token is empty"),
    ],
)
def test_wrong_usage_is_one_line(fake, arguments, message, monkeypatch, capsys):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert main(["serve", "--port", "0", *arguments, "-q"]) == 2
    assert message in only_line(capsys)


def test_what_cannot_work_is_said_before_the_model_is_loaded(fake, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "-q"]) == 1
    assert only_line(capsys) == f"bark-tf: Address already in use: '127.0.0.1:{port}'"
    assert not hasattr(fake, "loaded")
    assert main(["serve", "--port", "0", "-q", "--alias", "alloy=nobody"]) == 1
    assert "voice must be one of announcer, v2/en" in only_line(capsys)


def test_demo_is_a_server_with_a_page(fake, monkeypatch, capsys):
    gates = []

    class HttpServer:
        def __init__(self, gate):
            gates.append(gate)

        def run(self, sockets):
            pass

    monkeypatch.setattr("bark_tf.serving.running.HttpServer", HttpServer)

    async def get(*paths, host="localhost"):
        transport = httpx.ASGITransport(gates[-1])
        async with httpx.AsyncClient(
            transport=transport, base_url=f"http://{host}"
        ) as client:
            return [await client.get(path) for path in paths]

    demo = ["demo", "--port", "0", "--no-warm-up", "--host", "::1"]
    assert main(demo) == 0
    said = capsys.readouterr().err
    assert re.search(r"listening on http://\[::1\]:\d+/\n", said)
    assert re.search(r"the page makes no voices: .*--semantic-tokenizer", said)
    page, models, settings = asyncio.run(get("/", "/v1/models", "/page/settings"))
    assert page.text.startswith("<!doctype html>") and models.status_code == 200
    assert settings.json()["max_characters"] == 1000
    assert settings.json()["makes_voices"] is False
    assert settings.json()["about"] == f"using {models.json()['data'][0]['id']}"
    (refused,) = asyncio.run(get("/", host="page.example"))
    assert refused.status_code == 403

    tokenizer = str(hub.SHIPPED_CHECKPOINT)
    assert main([*demo, "-q", "--semantic-tokenizer", tokenizer]) == 0
    (settings,) = asyncio.run(get("/page/settings"))
    assert settings.json()["makes_voices"] is True
    assert main([*demo, "-q", "--semantic-tokenizer", "nowhere"]) == 1
    assert "'nowhere' has no semantic_tokenizer.json" in only_line(capsys)
    serve = ["serve", "--port", "0", "--no-warm-up", "-q", "--without-token"]
    assert main(serve) == 0
    page, models = asyncio.run(get("/", "/v1/models", host="page.example"))
    assert (page.status_code, models.status_code) == (404, 200)


@pytest.mark.slow
def test_a_process_serves_until_sigterm(checkpoint):
    """What has begun is finished, and the exit status is 0."""
    command = [sys.executable, "-m", "bark_tf", "serve", "--model", checkpoint]
    command += [
        "--port",
        "0",
        "--no-xla",
        "--no-warm-up",
        "--alias",
        f"nova={VOICES[0]}",
    ]
    environment = {**os.environ, TOKEN_VARIABLE: "token"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        line = next(line for line in process.stderr if "listening" in line)
        url = re.search(r"http://[\w.:/]+", line)[0]
        body = {"model": "tts-1", "voice": "nova", "input": TEXT, "seed": 1}
        with httpx.stream(
            "POST",
            f"{url}/audio/speech",
            json={**body, "input": f"{TEXT}. " * 8, "response_format": "pcm"},
            headers={"authorization": "Bearer token"},
            timeout=WAIT_S,
        ) as response:
            pieces = response.iter_raw()
            num_bytes = len(next(pieces))
            process.send_signal(signal.SIGTERM)
            refused = None
            while refused is None:
                answer = httpx.get(url[:-3] + "/healthz")
                refused = answer if answer.status_code == 503 else None
            new = httpx.post(
                f"{url}/audio/speech",
                json=body,
                headers={"authorization": "Bearer token"},
            )
            assert new.status_code == 503
            num_bytes += sum(map(len, pieces))
        log = process.stderr.read()
        assert process.wait(WAIT_S) == 0
    assert num_bytes and '"status": 503' in log and "word1" not in log


def test_arguments_of_export_are_passed_on(monkeypatch, tmp_path, capsys):
    calls = []
    from_pretrained = BarkModel.from_pretrained

    def load(name, **options):
        calls.append(options)
        return from_pretrained(name)

    def export(self, directory, processor, **options):
        calls.append((directory, processor.available_voice_presets, options))
        return tmp_path / "1"

    monkeypatch.setattr(BarkModel, "from_pretrained", load)
    monkeypatch.setattr(BarkModel, "export", export)
    command = ["export", "--model", str(hub.SHIPPED_CHECKPOINT), "--out", "models/bark"]
    assert main([*command, "--quiet"]) == 0
    assert main([*command, "--version", "3", "--xla", "--dtype", "int8"]) == 0
    assert only_line(capsys) == f"bark-tf: {str(tmp_path / '1')!r}"
    first, plain, second, compiled = calls
    assert first == {"dtype": "float32", "quantize": None}
    assert second == {"dtype": "float32", "quantize": "int8"}
    assert plain == (
        "models/bark",
        ["kumo", "alpha"],
        {"version": None, "jit_compile": False},
    )
    assert compiled[2] == {"version": 3, "jit_compile": True}


def test_export_refuses_versions_that_are_not_numbers(capsys):
    for version in ("0", "v2", "-1"):
        assert main(["export", "--out", "models", "--version", version]) == 2
        assert "positive whole number" in only_line(capsys)
