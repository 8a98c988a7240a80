"""Audio to semantic tokens: one small interface, several ways."""
