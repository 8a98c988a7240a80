"""Transports to a server, against stand-ins that speak the real protocols."""

import http.server
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from serving_standins import GrpcStandIn, RestStandIn

from bark_tf.serving.transports import Unreachable, transport_to

KINDS = {"grpc": GrpcStandIn, "rest": RestStandIn}


def answer(signature, inputs):
    """Echoes; what a name asks for is done."""
    if signature == "slow":
        time.sleep(2)
    if signature == "refused":
        words = "assertion failed: [voice must be 'a'. Received:] [zulu]"
        raise ValueError(f"Graph execution error:\n\n{words}\n\t [[{{node Assert}}]]")
    if signature in ERRORS:
        raise ERRORS[signature][0](f"words first: {signature}\nnode {{speak}}")
    return {**inputs, "second": np.zeros(2, np.int32)}


ERRORS = {
    "bad request": (ValueError, ValueError),
    "not found": (LookupError, ValueError),
    "busy": (ConnectionError, Unreachable),
    "too late": (TimeoutError, TimeoutError),
    "broken": (RuntimeError, RuntimeError),
}


@pytest.fixture(scope="module", params=KINDS)
def server(request):
    one = KINDS[request.param](answer)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def transport(server):
    one = transport_to(server.address, "bark")
    yield one
    one.close()


def test_arrays_and_texts(transport):
    inputs = {
        "text": np.array(["hé".encode(), b""], object),
        "temperature": np.array([0.5, 1], np.float32),
        "codes": np.arange(6, dtype=np.int32).reshape(1, 2, 3),
    }
    out = transport.predict("speak", inputs, (), 10)
    assert set(out) == {*inputs, "second"}
    np.testing.assert_array_equal(out["codes"], inputs["codes"])
    np.testing.assert_array_equal(out["temperature"], inputs["temperature"])
    texts = [x.encode() if isinstance(x, str) else x for x in out["text"].tolist()]
    assert texts == inputs["text"].tolist()
    out = transport.predict("speak", inputs, ["second"], 10)
    assert list(out) == ["second"]


def test_the_words_of_an_export_come_first(transport):
    """TensorFlow puts its own around them."""
    with pytest.raises(ValueError, match=r"^voice must be 'a'\. Received: zulu"):
        transport.predict("refused", {"x": np.zeros(1, np.float32)}, (), 10)


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_is_one_line_of_its_kind(transport, name):
    with pytest.raises(ERRORS[name][1], match=f"^words first: {name}[^\n]*$"):
        transport.predict(name, {"x": np.zeros(1, np.float32)}, (), 10)


def test_a_deadline(transport):
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        transport.predict("slow", {"x": np.zeros(1, np.float32)}, (), 0.3)
    assert time.monotonic() - began < 1.8  # the server sleeps 2 s


def test_another_model_is_refused_in_the_servers_words(server):
    with pytest.raises(ValueError, match="Servable not found"):
        transport_to(server.address, "../bark").predict("speak", {}, (), 10)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_no_server(scheme):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(Unreachable, match=r"[Cc]onnection refused") as raised:
        transport_to(f"{scheme}://127.0.0.1:{port}", "bark").predict("s", {}, (), 5)
    assert "Pool" not in str(raised.value)


@pytest.mark.parametrize("address", ["localhost:8500", "ftp://a", "grpc://", ""])
def test_other_addresses(address):
    with pytest.raises(ValueError, match="must be grpc://HOST:PORT"):
        transport_to(address, "bark")


@pytest.fixture
def raw_server():
    """Answers every request with the bytes in `server.answer`, then hangs up."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(self.server.answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n<html>", RuntimeError, id="html"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n{}", RuntimeError, id="no outputs"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n[1]", RuntimeError, id="a list"),
        pytest.param(
            b'HTTP/1.1 200 OK\r\n\r\n{"outputs": {"x": {"b64": "!"}}}',
            RuntimeError,
            id="no base64",
        ),
        pytest.param(
            b'HTTP/1.1 200 OK\r\n\r\n{"outputs": {"x": [[1], [2, 3]]}}',
            RuntimeError,
            id="ragged",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", Unreachable, id="cut"
        ),
        pytest.param(b"", Unreachable, id="hung up"),
        pytest.param(b"\x00\x01\x02", Unreachable, id="no HTTP"),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n",
            RuntimeError,
            id="redirect",
        ),
        pytest.param(b"HTTP/1.1 502 Bad\r\n\r\n<html>", Unreachable, id="proxy"),
    ],
)
def test_malformed_answers(raw_server, data, error):
    raw_server.answer = data
    transport = transport_to(f"http://127.0.0.1:{raw_server.server_port}", "bark")
    with pytest.raises(error) as raised:
        transport.predict("speak", {"x": np.zeros(1)}, (), 5)
    assert "\n" not in str(raised.value)


def test_tensorflow_is_not_imported():
    code = (
        "import sys; from bark_tf.serving import transports; "
        "transports.transport_to('grpc://localhost:1', 'bark'); "
        "transports.transport_to('http://localhost:1', 'bark'); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
