"""Calls TensorFlow Serving by gRPC or REST, without TensorFlow."""

from __future__ import annotations

import abc
import base64
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from bark_tf.optional import required
from bark_tf.serving import messages

_SCHEMES = ("grpc", "grpcs", "http", "https")
_METHOD = "/tensorflow.serving.PredictionService/Predict"
# A second of audio is 96 kB of float32, or 400 kB of JSON.
_CHUNK_BYTES = 1 << 16
# How an export refuses a request: its words, and the values that came.
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\] \[(.*?)\]")
_MOST_BYTES = 1 << 30


class Unreachable(ConnectionError):
    """The server cannot be reached, or cannot answer now; a later try may succeed."""


class Transport(abc.ABC):
    """A way to a server; abstract."""

    @abc.abstractmethod
    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Iterable[str],
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Calls a signature once.

        Args:
            signature: Its name.
            inputs: Arrays by name; texts are arrays of `bytes` objects.
            outputs: Names of the outputs to return; none: all.
            timeout: Seconds until the call is given up.

        Raises:
            Unreachable: If another try may succeed.
            TimeoutError: If the time is over.
            ValueError: If the server refuses the request.
            RuntimeError: If the server fails, or its answer cannot be read.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connections."""


def transport_to(address: str, model: str, token: str | None = None) -> Transport:
    """The transport for an address.

    Args:
        address: `grpc://HOST:PORT`, `http://HOST:PORT`, or `grpcs`, `https`.
        model: Name of the model on the server.
        token: Sent as a bearer token, for a proxy in front of the server.

    Raises:
        ValueError: If the address is of another form.
    """
    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(
            "a server's address must be grpc://HOST:PORT or http://HOST:PORT (grpcs, "
            f"https). Received: {address!r}"
        )
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    kind = Grpc if parts.scheme.startswith("grpc") else Rest
    return kind(address, model, headers)


class Grpc(Transport):
    """gRPC; needs the package grpcio. See `transport_to`."""

    def __init__(self, address: str, model: str, headers: Mapping[str, str]):
        self._grpc = required("grpc", "A grpc:// address", "client")
        self._model, self._headers = model, tuple(headers.items())
        parts = urlsplit(address)
        # The lengths of answers are not known before.
        options = [("grpc.max_receive_message_length", _MOST_BYTES)]
        if parts.scheme == "grpcs":
            secret = self._grpc.ssl_channel_credentials()
            self._channel = self._grpc.secure_channel(parts.netloc, secret, options)
        else:
            self._channel = self._grpc.insecure_channel(parts.netloc, options)
        self._call = self._channel.unary_unary(_METHOD)

    def predict(self, signature, inputs, outputs, timeout):
        """See `Transport`."""
        data = messages.request(self._model, signature, inputs, outputs)
        try:
            answer = self._call(data, timeout=timeout, metadata=self._headers)
        except self._grpc.RpcError as error:
            raise self._explained(error) from None
        return _read(messages.response, answer)

    def _explained(self, error: Any) -> Exception:
        code = self._grpc.StatusCode
        kinds = {
            code.UNAVAILABLE: Unreachable,
            code.RESOURCE_EXHAUSTED: Unreachable,
            code.CANCELLED: Unreachable,  # by a server that stops
            code.DEADLINE_EXCEEDED: TimeoutError,
            code.INVALID_ARGUMENT: ValueError,
            code.NOT_FOUND: ValueError,
            code.FAILED_PRECONDITION: ValueError,
        }
        return kinds.get(error.code(), RuntimeError)(_first_line(error.details()))

    def close(self):
        """See `Transport`."""
        self._channel.close()


class Rest(Transport):
    """REST: JSON over HTTP. See `transport_to`."""

    def __init__(self, address: str, model: str, headers: Mapping[str, str]):
        self._requests = required("requests", "An http:// address", "client")
        self._session = self._requests.Session()
        self._session.headers.update(headers)
        self._url = f"{address.rstrip('/')}/v1/models/{quote(model, safe='')}:predict"

    def predict(self, signature, inputs, outputs, timeout):
        """See `Transport`."""
        ends = time.monotonic() + timeout
        body = {
            "signature_name": signature,
            "inputs": {
                name: _to_json(array.tolist()) for name, array in inputs.items()
            },
        }
        errors = self._requests.exceptions
        try:
            with self._session.post(
                self._url,
                json=body,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
            ) as answer:
                data, status = _until(answer, ends), answer.status_code
        except errors.Timeout:
            raise TimeoutError("the server did not answer in time") from None
        except (errors.ConnectionError, errors.ChunkedEncodingError) as error:
            raise Unreachable(_cause(error)) from None
        if status != 200:
            raise _explained(status, data)
        return _read(lambda text: _outputs(text, set(outputs)), data)

    def close(self):
        """See `Transport`."""
        self._session.close()


def _cause(error: BaseException | None) -> str:
    """What the system said, which requests wraps in four errors."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__context__
    return "the connection broke"


def _until(answer: Any, ends: float) -> bytes:
    """Reads a body, at most until `ends`, a time of the monotonic clock."""
    data = bytearray()
    for chunk in answer.iter_content(_CHUNK_BYTES):
        data += chunk
        if time.monotonic() > ends:
            raise TimeoutError("the server did not answer in time")
        if len(data) > _MOST_BYTES:
            raise RuntimeError(
                f"the server's answer is longer than {_MOST_BYTES} bytes"
            )
    return bytes(data)


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return [_to_json(one) for one in value] if isinstance(value, list) else value


def _outputs(data: bytes, wanted: set[str]) -> dict[str, np.ndarray]:
    answer = json.loads(data)["outputs"]
    if not isinstance(answer, dict):  # of a signature with one output
        answer = dict.fromkeys(wanted or {"output"}, answer)
    return {
        name: np.asarray(_from_json(value))
        for name, value in answer.items()
        if not wanted or name in wanted
    }


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return [_from_json(one) for one in value] if isinstance(value, list) else value


def _explained(status: int, data: bytes) -> Exception:
    try:
        words = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError):
        words = data[:200].decode("utf-8", "replace")
    words = f"{_first_line(str(words))} (HTTP {status})"
    if status in (429, 502, 503):
        return Unreachable(words)
    if status == 504:
        return TimeoutError(words)
    return (ValueError if 400 <= status < 500 else RuntimeError)(words)


def _read(read: Any, data: bytes) -> dict[str, np.ndarray]:
    try:
        return read(data)
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeError(
            f"the server's answer cannot be read: {_first_line(str(error))}"
        ) from error


def _first_line(words: str | None) -> str:
    words = (words or "").strip() or "no reason given"
    refused = _ASSERTION.search(words)
    return f"{refused[1]} {refused[2]}" if refused else words.splitlines()[0]
