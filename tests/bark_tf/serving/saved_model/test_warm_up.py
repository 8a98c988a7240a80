"""The requests that a server runs before it reports a version as available."""

import tensorflow as tf
from tensorflow.python.tools import saved_model_utils

from bark_tf.serving.saved_model.signatures import INPUTS
from bark_tf.serving.saved_model.warm_up import WARM_UP_FILE


def test_every_signature_has_a_request_that_fits_it(exported):
    """The file is read with the classes of TensorFlow Serving itself."""
    from tensorflow_serving.apis import prediction_log_pb2

    graph = saved_model_utils.get_meta_graph_def(str(exported), "serve")
    names = {*INPUTS, "serving_default"}
    assert graph.signature_def.keys() - {"__saved_model_init_op"} == names
    for record in tf.data.TFRecordDataset(str(exported / WARM_UP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "bark"
        name = request.model_spec.signature_name
        names.remove(name)
        signature = graph.signature_def[name]
        assert request.inputs.keys() == signature.inputs.keys()
        for key, tensor in request.inputs.items():
            expected = signature.inputs[key]
            assert tensor.dtype == expected.dtype
            shape = tf.TensorShape(expected.tensor_shape)
            assert shape.is_compatible_with(tf.make_ndarray(tensor).shape)
    assert not names
