"""Text: sentences, and the ids that Bark reads."""
