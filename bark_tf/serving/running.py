"""Runs a server until it is told to stop."""

from __future__ import annotations

import logging
import socket
import threading
from types import FrameType
from typing import TextIO

import uvicorn

from bark_tf.serving.gate import LOGGER, Gate

# Longer than clients keep an idle connection, so that none asks while it is closed.
_KEEP_ALIVE_S = 75
_CLOSING_S = 5


def bind(host: str, port: int) -> socket.socket:
    """Takes an address without listening yet.

    Args:
        host: An address, or a name of one.
        port: Port; 0: any free one.

    Returns:
        A bound TCP socket.

    Raises:
        OSError: If the address is taken or not of this machine; the error names it.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from error
    return bound


def log_to(stream: TextIO) -> None:
    """Writes a line per request to a stream, a JSON object each."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


class HttpServer(uvicorn.Server):
    """Stops gracefully: requests inside are answered, new ones get 503.

    A second signal ends it at once.

    Args:
        gate: The application.
    """

    def __init__(self, gate: Gate):
        super().__init__(
            uvicorn.Config(
                gate,
                # Its messages would quote texts in errors.
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_CLOSING_S,
            )
        )
        self._gate = gate

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called with SIGINT and SIGTERM."""
        if self._gate.is_closing:
            super().handle_exit(sig, frame)
        else:
            self.stop()

    def stop(self) -> None:
        """Lets no new request in, and ends when those inside are answered."""
        self._gate.close()
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        self._gate.wait_until_empty()
        self.should_exit = True
