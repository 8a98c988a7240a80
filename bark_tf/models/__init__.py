"""The four networks of Bark as Keras 3 models."""

from bark_tf.backend import import_keras

import_keras()
