"""The four networks of Bark as Keras 3 models."""
