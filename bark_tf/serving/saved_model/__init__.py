"""Exports for TensorFlow Serving: what a SavedModel holds, and how it is written."""
