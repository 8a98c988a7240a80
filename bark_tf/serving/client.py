"""Speaks through a TensorFlow Serving server that has an export of this project.

Imports neither TensorFlow nor a model, so it starts at once and runs anywhere.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bark_tf.serving.transports import Unreachable, transport_to

_FIRST_PAUSE_S = 0.2


class Client:
    """A connection to a server.

    Args:
        address: `grpc://HOST:PORT` or `http://HOST:PORT`; with TLS `grpcs`, `https`.
        model: Name of the model on the server.
        timeout: Seconds until a call, with all its attempts, is given up.
        attempts: How often a call is tried while the server is unreachable or busy.
            The pauses between the attempts double, from 0.2 s.
        token: Bearer token, for a proxy in front of the server.

    Raises:
        ValueError: If the address is of another form.
        ImportError: If a package is missing: `grpc://` needs grpcio.

    Example:
        >>> with Client("grpc://127.0.0.1:8500") as client:  # doctest: +SKIP
        ...     client.speak("Hello", voice="alpha", seed=7).save("hello.wav")
    """

    def __init__(
        self,
        address: str,
        *,
        model: str = "bark",
        timeout: float = 300.0,
        attempts: int = 5,
        token: str | None = None,
    ):
        self.address, self.timeout, self.attempts = address, timeout, attempts
        self._transport = transport_to(address, model, token)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Iterable[str] = (),
    ) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature: Its name; `docs/serving.md` lists them.
            inputs: Arrays by name; texts are arrays of `bytes` objects.
            outputs: Names of the outputs to return; none: all.

        Returns:
            Arrays by name.

        Raises:
            ConnectionError: If the server is unreachable or busy at every attempt.
            TimeoutError: If the time is over.
            ValueError: If the server refuses the request.
            RuntimeError: If the server fails, or its answer cannot be read.
        """
        ends = time.monotonic() + self.timeout
        pause = _FIRST_PAUSE_S
        for attempt in range(1, self.attempts + 1):
            left = ends - time.monotonic()
            try:
                return self._transport.predict(signature, inputs, outputs, left)
            except Unreachable as error:
                # Clients that failed together come back one by one.
                wait = pause * random.uniform(0.5, 1.0)
                if attempt == self.attempts or time.monotonic() + wait >= ends:
                    raise ConnectionError(
                        f"{self.address} cannot answer after {attempt} attempts: {error}"
                    ) from error
            except TimeoutError as error:
                raise TimeoutError(
                    f"{self.address} did not answer within {self.timeout:g} s"
                ) from error
            time.sleep(wait)
            pause *= 2
        raise AssertionError("attempts must be positive")
