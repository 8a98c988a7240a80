"""Text: sentences and token ids."""
