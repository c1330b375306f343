"""Keep decoded JPEG images, so that the same bytes are not decoded twice.

A cache of those that were used last (https://en.wikipedia.org/wiki/Cache_replacement_policies#LRU), as ``functools.lru_cache`` is one,
but bounded by bytes and not by how many there are.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import are_used, insert_above, refuse_other_imports, refuse_taken
from ._image_decodes import decodes
from ._lines import all_respelled, text_of
from ._scopes import calls

SITE, HELPER, OTHERS = "decode", "_kept_image", ("_keep_image",)
NAMES = ("_KEPT_IMAGES", "_KEPT_BYTES", "_KEPT_LOCK")
HELPER_TEXT = '''
import os
import threading
from collections import OrderedDict

import numpy

_KEPT_IMAGES, _KEPT_BYTES, _KEPT_LOCK = OrderedDict(), [0], threading.Lock()


def _kept_image(data):
    """`cv2.imdecode(data, cv2.IMREAD_COLOR)`; where the same bytes were decoded before, a copy of what they gave, if that is kept."""
    import cv2

    is_plain = isinstance(data, numpy.ndarray) and data.dtype == numpy.uint8
    key = (data.shape, data.tobytes()) if is_plain else None
    with _KEPT_LOCK:
        kept = _KEPT_IMAGES.get(key)
        if kept is not None:
            _KEPT_IMAGES.move_to_end(key)
    if kept is not None:
        return kept.copy()
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if is_plain and pixels is not None:
        _keep_image(key, pixels)
    return pixels


def _keep_image(key, pixels, most=MEGABYTES * 10**6):
    """Keep a copy, and of all images those that were used last: `most` bytes in a process, with the bytes that tell them apart."""
    size = pixels.nbytes + len(key[1])
    with _KEPT_LOCK:
        if size > most or key in _KEPT_IMAGES:  # another thread was here
            return
        _KEPT_BYTES[0] += size
        while _KEPT_BYTES[0] > most:
            (_, data), old = _KEPT_IMAGES.popitem(last=False)
            _KEPT_BYTES[0] -= old.nbytes + len(data)
        _KEPT_IMAGES[key] = pixels.copy()


if hasattr(os, "register_at_fork"):  # a new process finds the lock open, and the images whole
    os.register_at_fork(
        before=_KEPT_LOCK.acquire, after_in_parent=_KEPT_LOCK.release, after_in_child=_KEPT_LOCK.release
    )
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``decode``: the first ``cv2.imdecode`` of an image in colour."""
    uses, found = calls(source, HELPER), decodes(source, HELPER)
    if are_used(source, HELPER, OTHERS, uses):
        if found:
            raise PartlyApplied(
                f"{source.name}:{found[0].lineno} is partly applied: an image is decoded without {HELPER}",
                "take the part that is there out by hand, then apply again",
            )
        return [Site(SITE, uses[0].lineno, OURS)]
    refuse_taken(source, *NAMES)
    refuse_other_imports(source, HELPER_TEXT)
    if not found:
        raise NoSite(f"{source.name}: no image is decoded with cv2.imdecode(data, cv2.IMREAD_COLOR)")
    return [Site(SITE, found[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helpers above the first use, called in the place of each decoder."""
    found = decodes(source, HELPER)
    changes: dict[ast.expr, str] = {call: f"{HELPER}({text_of(source, call.args[0])})" for call in found}
    helper = HELPER_TEXT.replace("MEGABYTES", str(parameters["megabytes"]), 1)
    return [insert_above(source, found[0], helper), *all_respelled(source, changes)]
