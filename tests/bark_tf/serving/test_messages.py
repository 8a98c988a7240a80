"""Messages of TensorFlow Serving: TensorFlow's own classes judge."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from bark_tf.serving import messages

DTYPES = [kind.dtype for kind in messages._KINDS]


def tensor_of(request, name):
    """An input of a request, read by TensorFlow."""
    parsed = messages._CLASSES["Request"].FromString(request)
    data = {one.key: one.value.SerializeToString() for one in parsed.inputs}[name]
    return tf.make_ndarray(tensor_pb2.TensorProto.FromString(data))


def response_of(**outputs):
    """A response that holds TensorFlow's messages."""
    message = messages._CLASSES["Response"]()
    for name, tensor in outputs.items():
        message.outputs.add(key=name).value.MergeFromString(tensor.SerializeToString())
    return message.SerializeToString()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_arrays_there_and_back(dtype):
    array = np.arange(6).reshape(2, 1, 3).astype(dtype)
    sent = tensor_of(messages.request("bark", "speak", {"x": array}), "x")
    np.testing.assert_array_equal(sent, array)
    assert sent.dtype == array.dtype

    packed = tf.make_tensor_proto(array)
    fields = tensor_pb2.TensorProto(
        dtype=packed.dtype, tensor_shape=packed.tensor_shape
    )
    for kind in messages._KINDS:
        if kind.dtype == dtype:
            getattr(fields, kind.field).extend(array.ravel().tolist())
    back = messages.response(response_of(packed=packed, fields=fields))
    for name in ("packed", "fields"):
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_texts():
    texts = np.array([["hé".encode(), b"\xff\0", b""]], object)
    request = messages.request("bark", "speak", {"text": texts})
    assert tensor_of(request, "text").tolist() == texts.tolist()
    names = tf.make_tensor_proto([[b"a", b"bc"]])
    assert messages.response(response_of(x=names))["x"].tolist() == [[b"a", b"bc"]]


def test_a_repeated_value_is_sent_once():
    same = tf.make_tensor_proto(0.5, shape=(2, 2))
    assert len(same.float_val) == 1
    np.testing.assert_array_equal(
        messages.response(response_of(x=same))["x"], np.full((2, 2), 0.5, "f4")
    )


def test_what_cannot_be_sent_is_named():
    with pytest.raises(TypeError, match="codes has the dtype bfloat16"):
        messages.request("m", "s", {"codes": np.zeros(1, ml_dtypes.bfloat16)})


def damaged():
    tensor = tf.make_tensor_proto(np.zeros(3, "f4"))
    tensor.tensor_content = tensor.tensor_content[:-1]
    yield "cut", response_of(x=tensor)
    tensor = tf.make_tensor_proto(np.zeros(3, "f4"))
    tensor.tensor_shape.dim[0].size = 4
    yield "shape", response_of(x=tensor)
    tensor = tf.make_tensor_proto(0.0, shape=(2, 2))
    tensor.tensor_shape.dim[0].size = 1 << 50
    yield "huge", response_of(x=tensor)
    yield "bfloat16", response_of(x=tf.make_tensor_proto(tf.zeros(2, tf.bfloat16)))
    yield "no message", b"\xff\xff\xff"


@pytest.mark.parametrize("data", [pytest.param(d, id=n) for n, d in damaged()])
def test_damaged_answers_are_value_errors(data):
    with pytest.raises(ValueError, match=r"damaged|no PredictResponse"):
        messages.response(data)
