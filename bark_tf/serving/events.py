"""Speech as server-sent events: audio, and between it how far the speech is.

Source: OpenAI's API reference, "Create speech", `stream_format="sse"`.
Differs: `speech.progress`, `speech.unknown_words` and `error` are ours.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

MEDIA_TYPE = "text/event-stream"
_PROGRESS_S = 0.2


def event(kind: str, **fields: Any) -> bytes:
    """One event, a JSON object."""
    return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()


async def audio_events(
    chunks: AsyncIterator[bytes], progress: Callable[[], dict[str, Any]]
) -> AsyncIterator[bytes]:
    """Yields an event per chunk, and whenever the progress has changed."""
    last = None
    while True:
        waiting = asyncio.ensure_future(anext(chunks, None))
        try:
            while not (await asyncio.wait([waiting], timeout=_PROGRESS_S))[0]:
                if (now := progress()) != last:
                    last = now
                    yield event("speech.progress", **now)
            data = waiting.result()
        finally:
            waiting.cancel()
        if data is None:
            yield event("speech.audio.done")
            return
        yield event("speech.audio.delta", audio=base64.b64encode(data).decode())
