"""Training of semantic tokenizers."""
