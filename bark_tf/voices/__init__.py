"""Voices: presets, and those made from a recording."""
