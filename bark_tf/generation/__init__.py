"""Generation: static caches, sampling, the decode loop and the four stages."""

from bark_tf.backend import import_keras

import_keras()
