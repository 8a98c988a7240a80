"""The messages of TensorFlow Serving's `Predict`, without TensorFlow.

The classes that come with `tensorflow-serving-api` import TensorFlow, which takes
seconds and a gigabyte. These have the same fields under the same numbers, so they are
the same on the wire; their names stay in a pool of their own.

Source: `predict.proto`, `prediction_log.proto`, `model.proto`, `tensor.proto` and
`types.proto` of TensorFlow Serving and TensorFlow (interface facts: field numbers and
types).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Message -> its fields: name, number, type. `*` marks a repeated one. A map is sent as
# repeated pairs of key and value.
_MESSAGES = {
    "Dim": (("size", 1, "int64"),),
    "Shape": (("dim", 2, "*Dim"),),
    "Tensor": (
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "Shape"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "*float"),
        ("double_val", 6, "*double"),
        ("int_val", 7, "*int32"),
        ("string_val", 8, "*bytes"),
        ("int64_val", 10, "*int64"),
        ("bool_val", 11, "*bool"),
        ("uint32_val", 16, "*uint32"),
        ("uint64_val", 17, "*uint64"),
    ),
    "Named": (("key", 1, "string"), ("value", 2, "Tensor")),
    "Version": (("value", 1, "int64"),),
    "Model": (
        ("name", 1, "string"),
        ("version", 2, "Version"),
        ("signature_name", 3, "string"),
    ),
    "Request": (
        ("model_spec", 1, "Model"),
        ("inputs", 2, "*Named"),
        ("output_filter", 3, "*string"),
    ),
    "Response": (("outputs", 1, "*Named"), ("model_spec", 2, "Model")),
    # A message inside of another is sent as its bytes.
    "PredictLog": (("request", 1, "bytes"),),
    "PredictionLog": (("predict_log", 6, "PredictLog"),),
}


class _Kind(NamedTuple):
    """A dtype: its number in a message, and the field that holds its values."""

    number: int
    dtype: Any
    field: str


_KINDS = (
    _Kind(1, np.float32, "float_val"),
    _Kind(2, np.float64, "double_val"),
    _Kind(3, np.int32, "int_val"),
    _Kind(4, np.uint8, "int_val"),
    _Kind(5, np.int16, "int_val"),
    _Kind(6, np.int8, "int_val"),
    _Kind(9, np.int64, "int64_val"),
    _Kind(10, np.bool_, "bool_val"),
    _Kind(22, np.uint32, "uint32_val"),
    _Kind(23, np.uint64, "uint64_val"),
)
_STRING = 7
_MOST_VALUES = 1 << 28


def _field(name: str, number: int, kind: str) -> descriptor_pb2.FieldDescriptorProto:
    field = descriptor_pb2.FieldDescriptorProto(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind[0] == "*" else field.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    if kind in _MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, kind
    else:
        field.type = field.Type.Value(f"TYPE_{kind.upper()}")
    return field


def _classes() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", syntax="proto3")
    for name, fields in _MESSAGES.items():
        file.message_type.add(name=name, field=[_field(*field) for field in fields])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for name in _MESSAGES
    }


_CLASSES = _classes()


def request(
    model: str,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Iterable[str] = (),
) -> bytes:
    """A `PredictRequest`.

    Args:
        model: Name of the model.
        signature: Name of the signature.
        inputs: Arrays by name; texts are arrays of `bytes` objects.
        outputs: Names of the outputs to return; none: all.

    Raises:
        TypeError: For a dtype that the signatures do not have.
    """
    message = _CLASSES["Request"](output_filter=outputs)
    message.model_spec.name, message.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        _fill(message.inputs.add(key=name).value, value, name)
    return message.SerializeToString()


def prediction_log(request: bytes) -> bytes:
    """A `PredictionLog` of a `PredictRequest`, for a file of warm-up requests."""
    log = _CLASSES["PredictionLog"]()
    log.predict_log.request = request
    return log.SerializeToString()


def _fill(message: Any, array: np.ndarray, name: str) -> None:
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    if array.dtype == object:
        message.dtype = _STRING
        message.string_val.extend(array.ravel())
        return
    for kind in _KINDS:
        if array.dtype == kind.dtype:
            message.dtype = kind.number
            message.tensor_content = array.astype(
                array.dtype.newbyteorder("<")
            ).tobytes()
            return
    raise TypeError(f"{name} has the dtype {array.dtype}, which cannot be sent")


def response(data: bytes) -> dict[str, np.ndarray]:
    """The outputs in a `PredictResponse`; strings are `bytes` objects.

    Raises:
        ValueError: If it is damaged.
    """
    from google.protobuf.message import DecodeError

    try:
        message = _CLASSES["Response"].FromString(data)
    except DecodeError as error:
        raise ValueError(f"the answer is no PredictResponse ({error})") from error
    return {one.key: _array(one.key, one.value) for one in message.outputs}


def _array(name: str, message: Any) -> np.ndarray:
    shape = [dim.size for dim in message.tensor_shape.dim]
    try:
        return _values(message, math.prod(shape)).reshape(shape)
    except ValueError as error:
        raise ValueError(f"the output {name} is damaged: {error}") from error


def _values(message: Any, size: int) -> np.ndarray:
    if not 0 <= size <= _MOST_VALUES:
        raise ValueError(f"{size} values")
    if message.dtype == _STRING:
        return np.array([*message.string_val, None], object)[:-1]
    for kind in _KINDS:
        if kind.number == message.dtype:
            break
    else:
        raise ValueError(f"unknown dtype {message.dtype}")
    if message.tensor_content:
        return np.frombuffer(
            message.tensor_content, np.dtype(kind.dtype).newbyteorder("<")
        )
    values = np.array(getattr(message, kind.field), kind.dtype)
    # A sender may leave out repetitions of the last value.
    if 0 < values.size < size:
        values = np.pad(values, (0, size - values.size), mode="edge")
    return values
