"""Audio to semantic tokens: one interface, several tokenizers."""
