"""Exports for TensorFlow Serving, and a server that speaks HTTP."""
