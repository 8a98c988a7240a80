"""EnCodec: SEANet encoder and decoder with a residual vector quantizer."""
