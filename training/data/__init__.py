"""Recordings to batches: reading, preparing, sequences."""
