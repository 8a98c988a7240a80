"""HuBERT and the quantizer that turns its frames into semantic tokens."""
