"""Suno's Bark text-to-speech in TensorFlow and Keras 3."""

from bark_tf._version import __version__

__all__ = ["__version__"]
