"""One call from a text to a sound that saves and plays itself."""
