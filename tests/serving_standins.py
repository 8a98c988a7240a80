"""Servers on loopback that speak TensorFlow Serving's protocols.

gRPC by the project's own generated classes (`tensorflow-serving-api`), REST as its
documentation describes it. A function answers the requests, so a test can be slow,
fail, or ask an export.

    python tests/serving_standins.py models/bark/1   # prints its gRPC address
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import sys
import threading
import time
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


def predict_with(export):
    """Answers requests as TensorFlow Serving does, which converts JSON by dtype."""
    import tensorflow as tf

    model = tf.saved_model.load(str(export))

    def predict(name, inputs):
        function = model.signatures[name]
        specs = function.structured_input_signature[1]
        tensors = {
            key: tf.constant(inputs[key], spec.dtype) for key, spec in specs.items()
        }
        try:
            return {key: one.numpy() for key, one in function(**tensors).items()}
        except tf.errors.InvalidArgumentError as error:
            # TensorFlow's Python puts words of its own before those of the graph.
            start = error.message.index("assertion failed")
            raise ValueError(error.message[start:]) from error

    return predict


# === A small export ===

RATE, HOP, BOOKS, WINDOW = 1000, 20, 4, 3
STAGES = ("semantic", "coarse", "fine")
VOICES = {"": 0, "alpha": 5, "kumo": 7}


class FakeBark:
    """Answers as an export does; audio tells text, voice, seed and temperature.

    Each letter of a text is a semantic token, a frame and HOP samples.
    """

    def __init__(self):
        self.asked = []
        self.failures = []  # raised by the next calls
        self.lock = threading.Lock()

    def __call__(self, signature, inputs):
        with self.lock:
            self.asked.append((signature, inputs))
            failure = self.failures.pop() if self.failures else None
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:
            time.sleep(failure)
        return getattr(self, signature)(**inputs)

    def speak(self, text, voice, seed, stream, **sampling):
        voice = self.voices(voice)
        rows = []
        for i, one in enumerate(text):
            ids = np.frombuffer(one, np.uint8)[None].astype(np.int32)
            heat = sampling["fine_temperature"][i]
            fine = np.repeat(ids[:, None], BOOKS, axis=1)
            first = voice["fine_prompt"][i : i + 1, 0, :1].sum()
            rows.append(self._audio(fine, first, seed[i] + stream[i], heat)[0])
        audio = np.zeros((len(rows), max(map(len, rows))), np.float32)
        for place, row in zip(audio, rows, strict=True):
            place[: len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int32)
        return {
            "audio": audio,
            "lengths": lengths,
            "sampling_rate": np.full(len(rows), RATE),
        }

    def _audio(self, fine, voice, seed, heat):
        value = fine[:, 0] / 256 + 0.001 * (voice + seed % 100) + 0.1 * heat
        return np.repeat(value, HOP, axis=1).astype(np.float32)

    def voices(self, voice):
        words = [one.decode() if isinstance(one, bytes) else one for one in voice]
        if set(words) - set(VOICES):
            raise ValueError(f"voice must be empty or one of {list(VOICES)}")
        rows = len(words)
        prompt = np.array([[VOICES[word]] for word in words], np.int32)
        if not prompt.any():
            prompt = prompt[:, :0]
        names = np.array([[name.encode() for name in VOICES if name]] * rows, object)
        return {
            "names": names,
            "semantic_prompt": prompt,
            "coarse_prompt": np.repeat(prompt[:, None], 2, axis=1),
            "fine_prompt": np.repeat(prompt[:, None], BOOKS, axis=1),
            "sampling_rate": np.full(rows, RATE, np.int32),
            "semantic_rate_hz": np.full(rows, 50, np.float32),
            **{f"{s}_temperature": np.full(rows, 0.5, np.float32) for s in STAGES},
            "min_new_tokens": np.full(rows, 0, np.int32),
            "max_new_tokens": np.full(rows, 300, np.int32),
        }

    def tokenize(self, text):
        ids = np.frombuffer(text[0], np.uint8)[None].astype(np.int32)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def semantic(self, input_ids, **_):
        padded = np.pad(input_ids, [(0, 0), (0, 2)])
        return {"semantic": padded, "num_semantic": np.array([input_ids.shape[1]])}

    def coarse_window(self, semantic, num_semantic, coarse, **_):
        start = coarse.shape[2]
        new = semantic[:, start : min(start + WINDOW, num_semantic[0])]
        new = np.repeat(new[:, None], 2, axis=1)
        return {"coarse": new, "num_frames": num_semantic}

    def fine(self, coarse, num_frames, fine_prompt, seed, stream, temperature, **_):
        self.state = fine_prompt[0, 0, :1].sum(), seed[0] + stream[0], temperature[0]
        total = num_frames[0]
        ends = np.array([[0, total // 2, total]], np.int32)
        return {"fine": np.repeat(coarse[:, :1], BOOKS, axis=1), "boundaries": ends}

    def decode(self, fine, start, num_frames):
        audio = self._audio(fine, *self.state)[:, start[0] * HOP : num_frames[0] * HOP]
        return {"audio": audio, "lengths": num_frames - start}


if __name__ == "__main__":
    server = GrpcStandIn(predict_with(sys.argv[1]))
    print(server.address, flush=True)
    threading.Event().wait()
