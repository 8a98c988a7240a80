"""What a model has learned: losses, words, voices, sound."""
