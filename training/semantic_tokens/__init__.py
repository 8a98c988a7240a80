"""Audio to semantic tokens: one small interface, several ways."""

from .tokenizer import (
    ARRAYS_NAME,
    FILE_NAME,
    SemanticTokenizer,
    load_semantic_tokenizer,
)

__all__ = [
    "ARRAYS_NAME",
    "FILE_NAME",
    "SemanticTokenizer",
    "load_semantic_tokenizer",
]
