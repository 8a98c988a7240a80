"""Servers on loopback that speak TensorFlow Serving's protocols.

gRPC by the project's own generated classes (`tensorflow-serving-api`), REST as its
documentation describes it. A function answers the requests, so a test can be slow,
fail, or ask an export.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

MODEL = "bark"
# Exceptions that a function raises -> gRPC status, HTTP status.
STATUSES = {
    ValueError: ("INVALID_ARGUMENT", 400),
    LookupError: ("NOT_FOUND", 404),
    TimeoutError: ("DEADLINE_EXCEEDED", 504),
    ConnectionError: ("UNAVAILABLE", 503),
    RuntimeError: ("INTERNAL", 500),
}


def status_of(error):
    return next(
        (status for kind, status in STATUSES.items() if isinstance(error, kind)),
        ("UNKNOWN", 500),
    )


class GrpcStandIn:
    """A PredictionService.

    Args:
        predict: Takes the signature's name and arrays by name, returns arrays by name.
        port: 0 for any.
    """

    def __init__(self, predict, port=0, threads=16):
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
            def Predict(self, request, context):
                if request.model_spec.name != MODEL:
                    context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
                inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
                name = request.model_spec.signature_name or "serving_default"
                try:
                    outputs = predict(name, inputs)
                except Exception as error:
                    status = getattr(grpc.StatusCode, status_of(error)[0])
                    context.abort(status, str(error))
                kept = [k for k in request.output_filter or outputs if k in outputs]
                response = predict_pb2.PredictResponse(model_spec=request.model_spec)
                for key in kept:
                    value = tf.make_tensor_proto(outputs[key])
                    response.outputs[key].CopyFrom(value)
                return response

        self._server = grpc.server(
            ThreadPoolExecutor(threads),
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            Service(), self._server
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"grpc://127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        """Ends at once, as a killed server does."""
        self._server.stop(0).wait()


class RestStandIn:
    """`POST /v1/models/bark:predict`; see `GrpcStandIn`."""

    def __init__(self, predict, port=0):
        self._connections = connections = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body leave together

            def setup(self):
                connections.append(self.request)
                super().setup()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = respond(predict, self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_):  # a client that has gone away
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.address = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


def respond(predict, path, body):
    """HTTP status and JSON of the answer."""
    if path != f"/v1/models/{MODEL}:predict":
        return 404, json.dumps({"error": "Servable not found"}).encode()
    request = json.loads(body)
    inputs = {k: np.array(decoded(v)) for k, v in request["inputs"].items()}
    try:
        outputs = predict(request.get("signature_name", "serving_default"), inputs)
    except Exception as error:
        return status_of(error)[1], json.dumps({"error": str(error)}).encode()
    values = {k: encoded(np.asarray(v).tolist()) for k, v in outputs.items()}
    # A single output has no name.
    shown = next(iter(values.values())) if len(values) == 1 else values
    return 200, json.dumps({"outputs": shown}).encode()


def decoded(value):
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [decoded(one) for one in value] if isinstance(value, list) else value


def encoded(value):
    if isinstance(value, list):
        return [encoded(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value
