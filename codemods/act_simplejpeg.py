"""Decode JPEG images with simplejpeg where that gives the same pixels as OpenCV.

Both call libjpeg-turbo; OpenCV asks for more on the way. simplejpeg: https://gitlab.com/jfolz/simplejpeg. What OpenCV does besides stays
with it: images that are to be turned (Exif), that are cut off or damaged, and other formats.
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

SITE, HELPER, OTHERS, STATE = "decode", "_decoded_jpeg", ("_is_plain_jpeg",), "_JPEG_CHECKED"
HELPER_TEXT = r'''
import numpy

_JPEG_CHECKED = []


def _decoded_jpeg(data):
    """`cv2.imdecode(data, cv2.IMREAD_COLOR)`: by simplejpeg, where that is installed and gives the same pixels.

    The first image of a process is decoded by both; where they differ, all that follow are OpenCV's, as those are that simplejpeg
    refuses, that are cut off, or that are to be turned.
    """
    import cv2

    pixels = None
    if all(_JPEG_CHECKED) and _is_plain_jpeg(data):
        try:
            import simplejpeg

            pixels = simplejpeg.decode_jpeg(data, colorspace="BGR", fastdct=False, fastupsample=False)
        except ImportError:
            _JPEG_CHECKED.append(False)
        except ValueError:
            pass
    if pixels is not None and _JPEG_CHECKED:
        return pixels
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if pixels is not None:
        _JPEG_CHECKED.append(numpy.array_equal(pixels, expected))
    return expected


def _is_plain_jpeg(data):
    """Whether an array is a whole JPEG file, with zeros behind it or not, that says nothing of how the image is to be turned."""
    if (
        not isinstance(data, numpy.ndarray)
        or data.dtype != numpy.uint8
        or data.ndim != 1
        or not data.flags.c_contiguous
    ):
        return False
    raw, at = data.tobytes(), 2
    if raw[:2] != b"\xff\xd8" or raw.rstrip(b"\0")[-2:] != b"\xff\xd9":
        return False
    while raw[at : at + 1] == b"\xff" and raw[at + 1] not in (0xDA, 0xE1):  # up to the pixels, or to Exif
        at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return raw[at : at + 2] == b"\xff\xda"
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
    refuse_taken(source, STATE)
    refuse_other_imports(source, HELPER_TEXT)
    if not found:
        raise NoSite(f"{source.name}: no image is decoded with cv2.imdecode(data, cv2.IMREAD_COLOR)")
    return [Site(SITE, found[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helpers above the first use, called in the place of each decoder."""
    found = decodes(source, HELPER)
    changes: dict[ast.expr, str] = {call: f"{HELPER}({text_of(source, call.args[0])})" for call in found}
    return [insert_above(source, found[0], HELPER_TEXT), *all_respelled(source, changes)]
