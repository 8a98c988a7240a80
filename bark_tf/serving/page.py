"""The page of `bark-tf demo`: its files, and what it needs beside OpenAI's protocol.

The page keeps a recorded voice and sends it with each text, so the server keeps nothing
of a person.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from bark_tf.generation.options import stage_configs
from bark_tf.serving.gate import Refused
from bark_tf.serving.server import Server
from bark_tf.voices.cloning import CONSENT, VoiceReport, save_voice
from bark_tf.voices.presets import VoicePreset

_FILES = Path(__file__).with_name("static")
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# Nothing comes from elsewhere, and no other page may show this one in a frame.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; media-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_SETTINGS, _VOICE = "/page/settings", "/page/voice"
_MAX_RECORDING = 2**23  # bytes: a minute and a half at 48 kHz

MakeVoice = Callable[[Path], tuple[VoicePreset, VoiceReport]]


class Page:
    """Adds the page to a server.

    Its files need no token: a browser cannot send one before it has them.

    Args:
        server: `Server`.
        about: A sentence about the model.
        make_voice: Makes a voice of a recording, as `bark_tf.make_voice`; None: the
            page says that it cannot.
    """

    def __init__(self, server: Server, about: str, make_voice: MakeVoice | None = None):
        self._engine, self._about = server.engine, about
        self._max_characters = server.max_characters
        self._make_voice, self._is_making = make_voice, asyncio.Lock()
        for file in _FILES.iterdir():
            path = "/" if file.name == "index.html" else f"/{file.name}"
            server.app.add_route(path, _send(file), include_in_schema=False)
            server.gate.public.add(path)
        server.app.get(_SETTINGS, include_in_schema=False)(self.settings)
        server.app.post(_VOICE, include_in_schema=False)(self.voice)
        server.gate.max_bodies[_VOICE] = _MAX_RECORDING

    async def settings(self) -> dict[str, Any]:
        """What the page shows before anybody speaks."""
        config = self._engine.model.generation_config
        return {
            "about": self._about,
            "max_characters": self._max_characters,
            "sample_rate": self._engine.sample_rate,
            "voices": self._engine.voices,
            "temperatures": stage_configs(config, {}, config.compat).temperatures(),
            "consent": CONSENT,
            "makes_voices": self._make_voice is not None,
        }

    async def voice(self, request: Request, consent: bool = False) -> dict[str, Any]:
        """Makes a voice of the recording in the body."""
        if self._make_voice is None:
            raise Refused(400, "This server makes no voices", param="recording")
        if not consent:
            raise Refused(400, f"Please confirm: {CONSENT}", param="consent")
        # Other sites may not send this type without asking first.
        if not request.headers.get("content-type", "").startswith("audio/"):
            raise Refused(400, "Send the sound of a recording", param="recording")
        data = await request.body()
        if self._is_making.locked():
            raise Refused(429, "Another voice is being made. Try again", code="busy")
        async with self._is_making:
            return await run_in_threadpool(_made, self._make_voice, data)


def _send(file: Path) -> Callable:
    async def send(request: Request) -> FileResponse:
        return FileResponse(
            file, media_type=_MEDIA_TYPES[file.suffix], headers=_HEADERS
        )

    return send


def _made(make_voice: MakeVoice, data: bytes) -> dict[str, Any]:
    """The voice: for requests, as a file, to listen to, and what to know about it."""
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "the recording"
        recording.write_bytes(data)
        try:
            voice, report = make_voice(recording)
        except ValueError as error:
            message = str(error).replace(str(recording), recording.name)
            raise Refused(400, message, param="recording") from error
        files = save_voice(voice, report, Path(folder) / "voice")
        npz, sound = (base64.b64encode(file.read_bytes()).decode() for file in files)
    return {
        "history_prompt": {name: array.tolist() for name, array in voice.items()},
        "npz": npz,
        "sound": sound,
        "report": str(report),
        "warnings": report.warnings,
    }
