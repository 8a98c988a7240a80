"""Installed as `bark_tf.convert`: every checkpoint format into and out of bark_tf."""
