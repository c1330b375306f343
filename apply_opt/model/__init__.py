"""The layer that only computes: bytes in, bytes out."""
