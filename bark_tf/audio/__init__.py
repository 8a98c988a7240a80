"""Sound files in and out; audio as arrays."""
