"""Generation: static caches, sampling, the decode loop and the four stages."""
