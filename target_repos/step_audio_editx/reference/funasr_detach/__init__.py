"""A small streaming speech encoder behind the `AutoModel` interface."""

from funasr_detach.auto.auto_model import AutoModel

__all__ = ["AutoModel"]
