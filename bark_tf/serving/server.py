"""OpenAI's speech protocol over HTTP.

Source: OpenAI's API reference, "Create speech" and "List models"; the list of voices
is at the path where Open WebUI looks for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from bark_tf.audio.encoding import RESPONSE_FORMATS, Encoder
from bark_tf.config.fields import brief
from bark_tf.generation.random import SEED_BITS
from bark_tf.serving.batching import Gone
from bark_tf.serving.engine import DEFAULT_VOICE, Busy, Engine, Utterance
from bark_tf.serving.events import MEDIA_TYPE, audio_events, event
from bark_tf.serving.gate import HEALTH, Gate, Refused, error_response
from bark_tf.voices.presets import PROMPT_RANKS

# Clients name these when nobody has told them better.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
MAX_CHARACTERS = 4096  # OpenAI's
# A character is up to 12 bytes of JSON (two escapes); the rest is for other fields, of
# which the arrays of a voice of 13 s take half.
_BYTES_PER_CHARACTER, _OTHER_BYTES = 12, 2**17
TIMEOUT_S = 300.0
_SPEECH = "/v1/audio/speech"
_CLIENT_CLOSED_REQUEST = 499  # nginx's, for logs
_NOTHING_SAID = "The model said nothing. Try another seed or a longer text"

TEMPERATURES = (
    "temperature",
    "semantic_temperature",
    "coarse_temperature",
    "fine_temperature",
)

_Value = TypeVar("_Value")
_Temperature = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]


class SpeechRequest(BaseModel):
    """The body of `POST /v1/audio/speech`; what follows `instructions` is ours."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: str
    voice: str = DEFAULT_VOICE
    response_format: str = "mp3"
    speed: float = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: str | None = None  # Bark has none, as OpenAI's tts-1
    seed: int | None = Field(None, ge=0, lt=2**SEED_BITS)
    temperature: _Temperature = None
    semantic_temperature: _Temperature = None
    coarse_temperature: _Temperature = None
    fine_temperature: _Temperature = None
    history_prompt: dict[str, list] | None = None

    def options(self) -> dict[str, Any]:
        """Keywords of `generate`."""
        options = {}
        for name in TEMPERATURES:
            if (value := getattr(self, name)) is not None:
                options[name] = value
                options[name.replace("temperature", "do_sample")] = value > 0
        return options

    def spoken_by(self) -> str | dict[str, list]:
        """The voice: its name, or its arrays."""
        if self.history_prompt is None:
            return self.voice
        if self.voice != DEFAULT_VOICE:
            raise ValueError(
                f"voice must be left out beside history_prompt. "
                f"Received: voice={self.voice[:80]!r}"
            )
        return self.history_prompt


class _Speech(StreamingResponse):
    """Frees the utterance's place when it is over, however it ends."""

    def __init__(self, utterance: Utterance, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._utterance = utterance

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._utterance.close()


class Server:
    """The application, and what it needs.

    Args:
        engine: `Engine`.
        model_name: The name under which the model is listed.
        token: See `Gate`.
        timeout_s: Most seconds from a request to its last byte.
        max_characters: Most characters of a text.
        only_loopback: See `Gate`.

    Attributes:
        app: The FastAPI application.
        gate: `Gate`, the application with what stands before it; serve this one.
        engine: The argument.
        max_characters: The argument.

    Example:
        >>> engine = Engine(model, processor)
        >>> uvicorn.run(Server(engine, "my-voice").gate)
    """

    def __init__(
        self,
        engine: Engine,
        model_name: str,
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_characters: int = MAX_CHARACTERS,
        only_loopback: bool = False,
    ):
        self.engine, self._model_name = engine, model_name
        self._timeout_s, self.max_characters = timeout_s, max_characters
        self._created = int(time.time())
        # One for each open utterance, and for rows of those that were given up.
        self._threads = ThreadPoolExecutor(
            engine.max_requests + engine.max_batch, thread_name_prefix="request"
        )
        self.app = FastAPI(
            title="bark-tf", docs_url=None, redoc_url=None, lifespan=self._lifespan
        )
        self._add_routes()
        max_body = _BYTES_PER_CHARACTER * max_characters + _OTHER_BYTES
        self.gate = Gate(
            self.app, engine.metrics, token, max_body, only_loopback=only_loopback
        )

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        self.engine.close()
        self._threads.shutdown()

    def _add_routes(self) -> None:
        app = self.app
        app.post(_SPEECH, response_class=StreamingResponse)(self.speech)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.get("/v1/audio/models")(self.audio_models)
        app.get("/v1/audio/voices")(self.voices)
        app.get(HEALTH)(self.health)
        app.get("/metrics")(self.metrics)
        for kind, explain in _EXPLANATIONS.items():
            app.exception_handler(kind)(explain)

    # === Lists ===

    def _described(self) -> dict[str, Any]:
        return {
            "id": self._model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "bark-tf",
        }

    async def models(self) -> dict[str, Any]:
        """The one model, as OpenAI lists its own."""
        return {"object": "list", "data": [self._described()]}

    async def model(self, name: str) -> dict[str, Any]:
        """One model by name."""
        self._check_model(name)
        return self._described()

    async def audio_models(self) -> dict[str, Any]:
        """The model, as Open WebUI asks for it."""
        return {"models": [{"id": self._model_name, "name": self._model_name}]}

    async def voices(self) -> dict[str, Any]:
        """All names that `voice` may have."""
        return {"voices": [{"id": name, "name": name} for name in self.engine.voices]}

    async def health(self) -> Response:
        """200 while requests are taken, 503 while the server stops."""
        if self.gate.is_closing:
            return error_response(503, "The server is stopping", code="stopping")
        return JSONResponse({"status": "ok"})

    async def metrics(self) -> Response:
        """Metrics for Prometheus."""
        return Response(self.engine.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    # === Speech ===

    async def speech(self, body: SpeechRequest, request: Request) -> Response:
        """Speaks a text; the audio is sent while it is made."""
        deadline = time.monotonic() + self._timeout_s
        self._check(body)
        facts = request.state.facts
        facts |= {"format": body.response_format, "characters": len(body.input)}
        utterance = await self._start(body)
        facts["voice"] = body.voice
        try:
            chunks = self._encoded(utterance, body.response_format, deadline, facts)
            media_type = RESPONSE_FORMATS[body.response_format].media_type
            if body.stream_format == "sse":
                media_type = MEDIA_TYPE
                chunks = self._events(request, utterance, chunks)
            first = await _unless_gone(request, anext(chunks))
        except BaseException:
            utterance.close()
            raise
        return _Speech(
            utterance,
            _chain(first, chunks),
            media_type=media_type,
            headers={"X-Seed": str(utterance.seed)},
        )

    def _check_model(self, name: str) -> None:
        if name not in (self._model_name, *OPENAI_MODELS):
            raise Refused(
                404,
                f"model must be {self._model_name!r}, or one of OpenAI's names for it, "
                f"{', '.join(OPENAI_MODELS)}. Received: model={name[:80]!r}",
                param="model",
                code="model_not_found",
            )

    def _check(self, body: SpeechRequest) -> None:
        self._check_model(body.model)
        if body.response_format not in RESPONSE_FORMATS:
            raise Refused(
                400,
                f"response_format must be one of {', '.join(RESPONSE_FORMATS)}. "
                f"Received: response_format={body.response_format[:80]!r}",
                param="response_format",
            )
        if body.speed != 1:
            raise Refused(
                400,
                "speed must be 1: Bark has no other; change it in the player. "
                f"Received: speed={body.speed}",
                param="speed",
            )
        if len(body.input) > self.max_characters:
            raise Refused(
                400,
                f"input must have at most {self.max_characters} characters. "
                f"Received: {len(body.input)}",
                param="input",
                code="string_above_max_length",
            )

    async def _start(self, body: SpeechRequest) -> Utterance:
        try:
            return await self._in_thread(
                lambda: self.engine.start(
                    body.input, body.spoken_by(), body.seed, **body.options()
                )
            )
        except ValueError as error:
            message = str(error)
            is_voice = message.startswith(("voice", *PROMPT_RANKS, "A voice"))
            param = "voice" if is_voice else "input"
            raise Refused(400, message, param=param) from error

    async def _in_thread(self, function) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _encoded(
        self, utterance: Utterance, name: str, deadline: float, facts: dict[str, Any]
    ) -> AsyncIterator[bytes]:
        """The bytes of an utterance, as early as they are there."""
        start, rate = time.monotonic(), self.engine.sample_rate
        pieces, encoder = iter(utterance), Encoder(name, rate)

        def next_bytes() -> bytes | None:
            piece = next(pieces, None)
            if piece is None:
                return None
            if not utterance.num_samples and piece[1]:
                raise Refused(500, _NOTHING_SAID, code="nothing_said")
            return encoder.add(*piece)

        while True:
            async with asyncio.timeout(deadline - time.monotonic()):
                data = await self._in_thread(next_bytes)
            if data is None:
                break
            if data and "first_byte_s" not in facts:
                facts["first_byte_s"] = round(time.monotonic() - start, 3)
                self.engine.metrics.first_byte_seconds.observe(facts["first_byte_s"])
            yield data
        seconds = utterance.num_samples / rate
        self.engine.metrics.audio_seconds.inc(seconds)
        facts |= {"audio_s": round(seconds, 3), "problems": utterance.problems}

    async def _events(
        self, request: Request, utterance: Utterance, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """The same as events. The status is gone, so an error is an event too."""
        if words := utterance.unknown_words:
            yield event("speech.unknown_words", words=words)
        try:
            async for data in audio_events(chunks, lambda: utterance.progress):
                yield data
        except Exception as error:
            kind = next(kind for kind in _EXPLANATIONS if isinstance(error, kind))
            response = await _EXPLANATIONS[kind](request, error)
            yield event("error", **json.loads(response.body))
            if kind is Exception:
                raise


async def _unless_gone(request: Request, value: Awaitable[_Value]) -> _Value:
    """Waits for a value as long as the client does.

    Raises:
        Gone: If the client has gone away.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waits = [asyncio.ensure_future(value), asyncio.create_task(gone())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not waits[0].done():
            raise Gone
        return waits[0].result()
    finally:
        for wait in waits:
            wait.cancel()


async def _chain(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in others:
        yield data


# === Errors ===


async def _explain_refusal(request: Request, error: Refused) -> Response:
    return error.response


async def _explain_busy(request: Request, error: Busy) -> Response:
    response = error_response(429, str(error), code="busy")
    response.headers["Retry-After"] = str(error.retry_after_s)
    return response


async def _explain_timeout(request: Request, error: TimeoutError) -> Response:
    return error_response(504, "The speech took too long", code="timeout")


async def _explain_gone(request: Request, error: Gone) -> Response:
    return error_response(_CLIENT_CLOSED_REQUEST, "The client has gone away")


async def _explain_validation(
    request: Request, error: RequestValidationError
) -> Response:
    first = error.errors()[0]
    field = brief(".".join(map(str, first["loc"][1:])) or "body")
    message = brief(f"{field}: {first['msg']}")
    return error_response(400, message, param=None if field == "body" else field)


async def _explain_status(request: Request, error: HTTPException) -> Response:
    response = error_response(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _explain_failure(request: Request, error: Exception) -> Response:
    return error_response(500, "The speech failed; the log says where", code="failed")


_EXPLANATIONS = {
    Refused: _explain_refusal,
    Busy: _explain_busy,
    TimeoutError: _explain_timeout,
    Gone: _explain_gone,
    RequestValidationError: _explain_validation,
    HTTPException: _explain_status,
    Exception: _explain_failure,
}
