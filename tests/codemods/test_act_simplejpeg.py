"""``act_simplejpeg``: images in colour that OpenCV decodes, and whether simplejpeg's pixels are the same."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from act import REFERENCE, module_of, text_with
from cases import above, constant, lands, plan, refuses, replaced, with_class, with_tabs

from apply_opt.errors import Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import PLANNED

NAME = "act_simplejpeg"
CLASS, HEADER = "class Episodes:\n", "def __getitem__(self, index):"
DECODE, DONE = "image = cv2.imdecode(self.files[index], 1)", "image = _decoded_jpeg(self.files[index])"


def module(body: str = DECODE, top: str = "import cv2") -> str:
    return with_class(top, CLASS, {HEADER: f"{body}\nreturn image"})


def after(text: str, anchor: str = "class ") -> str:
    return above(text, anchor, constant(NAME, "HELPER_TEXT"))


@pytest.mark.parametrize(
    ("decode", "done", "top"),
    [
        (DECODE, DONE, "import cv2"),
        (DECODE.replace("1)", "cv2.IMREAD_COLOR)"), DONE, "import cv2"),
        (DECODE.replace("cv2.", ""), DONE, "from cv2 import imdecode"),
        (f"import cv2\n{DECODE}", f"import cv2\n{DONE}", "import os"),
        ("image = np.array(cv2.imdecode(images[0], 1))", "image = np.array(_decoded_jpeg(images[0]))", "import cv2"),
    ],
)
def test_lands(decode: str, done: str, top: str) -> None:
    lands(NAME, module(decode, top), after(module(done, top)))
    lands(NAME, with_tabs(module(decode, top)), with_tabs(after(module(done, top))))


def test_lands_on_the_reference() -> None:
    done = replaced(REFERENCE, ("cv2.imdecode(data, cv2.IMREAD_COLOR)", "_decoded_jpeg(data)"))
    lands(NAME, REFERENCE, after(done, "def decoded"))


@pytest.mark.parametrize(
    "decode",
    [
        "image = cv2.imdecode(self.files[index], 0)",
        "image = cv2.imdecode(self.files[index], -1)",
        "image = cv2.imdecode(self.files[index], cv2.IMREAD_UNCHANGED)",
        "image = cv2.imdecode(self.files[index], self.flag)",
        "image = cv2.imdecode(self.files[index], 1, dst=self.image)",
        "image = cv2.imdecode(*self.files[index])",
        "image = other.imdecode(self.files[index], 1)",
        "image = 'cv2.imdecode(data, 1)'",
        "image = cv2.imread(self.files[index], 1)",
    ],
)
def test_other_images(decode: str) -> None:
    refuses(NAME, module(decode), NoSite, "no image is decoded")


def test_two_places() -> None:
    outcome = plan(NAME, module(f"{DECODE}\n{DECODE.replace('index', '0')}"))
    assert outcome.kind == PLANNED, outcome.message
    assert outcome.after.decode().count("= _decoded_jpeg(") == 2


def test_half_done() -> None:
    done = after(module(DONE))
    refuses(NAME, replaced(done, (DONE, DECODE)), PartlyApplied)
    refuses(NAME, replaced(done, (DONE, f"{DONE}\n        {DECODE}")), PartlyApplied, "without _decoded_jpeg")
    refuses(NAME, replaced(done, ("def _is_plain_jpeg", "def _is_jpeg")), PartlyApplied, "_is_plain_jpeg")
    refuses(NAME, module(DONE), PartlyApplied, "defined 0 times")


@pytest.mark.parametrize("line", ["_JPEG_CHECKED = 3", "numpy = None", "def _is_plain_jpeg(): pass"])
def test_names_that_are_taken(line: str) -> None:
    refuses(NAME, module(top=f"import cv2\n{line}"), Conflict, "already uses the name")


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """The reference tree's file with the optimization, in which one image was found to be the same."""
    for name in ("cv2", "simplejpeg", "h5py", "torch"):
        pytest.importorskip(name)
    module = module_of(text_with(NAME), tmp_path, "act_utils_jpeg")
    assert same(module, encoded())
    assert module._JPEG_CHECKED == [True]
    return module


def encoded(
    height: int = 31, width: int = 47, seed: int = 0, kind: str = ".jpg", settings: tuple[int, ...] = ()
) -> Any:
    """A file with a noisy grating."""
    import cv2
    import numpy

    random = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[:height, :width]
    image = 127 + 100 * numpy.sin(x * 0.4 + y * 0.3)[..., None] + random.normal(0, 15, (height, width, 3))
    return cv2.imencode(kind, image.clip(0, 255).astype("uint8"), settings)[1].ravel()


def same(module: Any, data: Any) -> bool:
    """Whether the pixels are OpenCV's."""
    import cv2
    import numpy

    made, expected = module._decoded_jpeg(data), cv2.imdecode(data, cv2.IMREAD_COLOR)
    if expected is None or made is None:
        return made is expected
    kinds = [(p.dtype, p.shape, p.flags.writeable, p.flags.c_contiguous) for p in (made, expected)]
    return kinds[0] == kinds[1] and numpy.array_equal(made, expected)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x221111, 0x121111, 0x411111])
def test_the_same_pixels(written: Any, sampling: int, progressive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    settings = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    for seed, size in enumerate([(48, 64), (31, 47), (1, 1), (17, 16), (1, 33), (120, 160)]):
        for quality in (10, 75, 95, 100):
            data = encoded(*size, seed=seed, settings=(*settings, cv2.IMWRITE_JPEG_QUALITY, quality))
            assert written._is_plain_jpeg(data)
            assert same(written, data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was asked"))
    written._decoded_jpeg(data)


def test_the_same_as_opencv_where_that_does_more(written: Any) -> None:
    import cv2
    import numpy

    whole = encoded()
    assert same(written, numpy.pad(whole, (0, 99)))
    assert written._is_plain_jpeg(numpy.pad(whole, (0, 99)))  # as act-plus-plus has them
    assert not written._is_plain_jpeg(whole[:-1])
    assert same(written, cv2.imencode(".jpg", numpy.arange(600, dtype="uint8").reshape(20, 30))[1].ravel())
    assert same(written, encoded(kind=".png"))
    assert same(written, numpy.zeros(60, "uint8"))
    for length in (1, 2, 20, 300, len(whole) // 2, len(whole) - 2, len(whole) - 1):
        assert same(written, whole[:length].copy()), length
    damaged = whole.copy()
    damaged[len(whole) // 2 : len(whole) // 2 + 3] = 0x55
    assert same(written, damaged)
    assert same(written, numpy.repeat(whole, 2)[::2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_that_are_to_be_turned(written: Any, orientation: int) -> None:
    import numpy

    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag
    raw = encoded().tobytes()
    data = numpy.frombuffer(raw[:2] + segment + raw[2:], "uint8")
    assert not written._is_plain_jpeg(data)
    assert same(written, data)


def test_what_opencv_raises(written: Any) -> None:
    import cv2
    import numpy

    for data in (numpy.zeros(0, "uint8"), "text"):
        with pytest.raises(Exception) as expected:
            cv2.imdecode(data, cv2.IMREAD_COLOR)
        with pytest.raises(expected.type) as found:
            written._decoded_jpeg(data)
        assert str(found.value) == str(expected.value)


def test_where_pixels_are_others(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another build of libjpeg, say: found out with the first image."""
    import numpy

    other = types.SimpleNamespace(decode_jpeg=lambda data, **_: numpy.zeros((31, 47, 3), "uint8"))
    monkeypatch.setitem(sys.modules, "simplejpeg", other)
    written._JPEG_CHECKED.clear()
    assert same(written, encoded())
    assert written._JPEG_CHECKED == [False]
    assert same(written, encoded())


def test_without_simplejpeg(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for once in a process: a failed import takes longer than what could be gained."""
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    written._JPEG_CHECKED.clear()
    assert same(written, encoded())
    assert written._JPEG_CHECKED == [False]
    monkeypatch.setattr(written, "_is_plain_jpeg", lambda data: pytest.fail("asked again"))
    assert same(written, encoded())
