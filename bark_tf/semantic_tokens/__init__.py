"""Audio to semantic tokens: one interface, several tokenizers."""

from bark_tf.semantic_tokens.tokenizer import (
    ARRAYS_NAME,
    FILE_NAME,
    SemanticTokenizer,
    check_tokenizer,
    load_semantic_tokenizer,
)

__all__ = [
    "ARRAYS_NAME",
    "FILE_NAME",
    "SemanticTokenizer",
    "check_tokenizer",
    "load_semantic_tokenizer",
]
