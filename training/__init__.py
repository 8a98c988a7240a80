"""Training and its data; installed as `bark_tf.training`."""
