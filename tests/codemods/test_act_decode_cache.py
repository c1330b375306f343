"""``act_decode_cache``: images in colour that OpenCV decodes, and what is kept of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from act import REFERENCE, module_of, text_with
from cases import above, constant, lands, plan, refuses, replaced, with_class, with_tabs
from hypothesis import given, settings
from hypothesis import strategies as st

from apply_opt.errors import Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import PLANNED

NAME = "act_decode_cache"
CLASS, HEADER = "class Episodes:\n", "def __getitem__(self, index):"
DECODE, DONE = "image = cv2.imdecode(self.files[index], 1)", "image = _kept_image(self.files[index])"


def module(body: str = DECODE, top: str = "import cv2") -> str:
    return with_class(top, CLASS, {HEADER: f"{body}\nreturn image"})


def after(text: str, anchor: str = "class ", megabytes: int = 512) -> str:
    return above(text, anchor, constant(NAME, "HELPER_TEXT").replace("MEGABYTES", str(megabytes)))


@pytest.mark.parametrize(
    ("decode", "done", "top"),
    [
        (DECODE, DONE, "import cv2"),
        (DECODE.replace("1)", "cv2.IMREAD_COLOR)"), DONE, "import cv2"),
        (DECODE.replace("cv2.", ""), DONE, "from cv2 import imdecode"),
        (f"import cv2\n{DECODE}", f"import cv2\n{DONE}", "import os"),
        ("image = np.array(cv2.imdecode(images[0], 1))", "image = np.array(_kept_image(images[0]))", "import cv2"),
    ],
)
def test_lands(decode: str, done: str, top: str) -> None:
    lands(NAME, module(decode, top), after(module(done, top)))
    lands(NAME, with_tabs(module(decode, top)), with_tabs(after(module(done, top))))


def test_lands_on_the_reference() -> None:
    done = replaced(REFERENCE, ("cv2.imdecode(data, cv2.IMREAD_COLOR)", "_kept_image(data)"))
    lands(NAME, REFERENCE, after(done, "def decoded"))
    assert text_with(NAME, megabytes=3) == after(done, "def decoded", 3)


@pytest.mark.parametrize(
    "decode",
    [
        "image = cv2.imdecode(self.files[index], 0)",
        "image = cv2.imdecode(self.files[index], cv2.IMREAD_UNCHANGED)",
        "image = cv2.imdecode(self.files[index], self.flag)",
        "image = cv2.imdecode(self.files[index], 1, dst=self.image)",
        "image = other.imdecode(self.files[index], 1)",
        "image = 'cv2.imdecode(data, 1)'",
        "image = cv2.imread(self.files[index], 1)",
        "image = _decoded_jpeg(self.files[index])",
    ],
)
def test_other_images(decode: str) -> None:
    refuses(NAME, module(decode), NoSite, "no image is decoded")


def test_two_places() -> None:
    outcome = plan(NAME, module(f"{DECODE}\n{DECODE.replace('index', '0')}"))
    assert outcome.kind == PLANNED, outcome.message
    assert outcome.after.decode().count("= _kept_image(") == 2


def test_half_done() -> None:
    done = after(module(DONE))
    refuses(NAME, replaced(done, (DONE, DECODE)), PartlyApplied)
    refuses(NAME, replaced(done, (DONE, f"{DONE}\n        {DECODE}")), PartlyApplied, "without _kept_image")
    refuses(NAME, replaced(done, ("def _keep_image", "def _keep")), PartlyApplied, "_keep_image")
    refuses(NAME, module(DONE), PartlyApplied, "defined 0 times")


@pytest.mark.parametrize(
    "line", ["_KEPT_LOCK = 3", "numpy = None", "threading = []", "def _keep_image(): pass", "import cupy as numpy"]
)
def test_names_that_are_taken(line: str) -> None:
    refuses(NAME, module(top=f"import cv2\n{line}"), Conflict, "already uses the name")


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """The reference tree's file with a cache of one megabyte: 166 images of 40x50, less what their bytes take."""
    for name in ("cv2", "h5py", "torch"):
        pytest.importorskip(name)
    return module_of(text_with(NAME, megabytes=1), tmp_path, "act_utils_kept")


@pytest.fixture
def decoded(written: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What OpenCV is asked for."""
    import cv2

    asked: list[bytes] = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flag: [asked.append(bytes(data)), decode(data, flag)][1])
    yield asked


def image(seed: int, kind: str = ".jpg") -> Any:
    """A file of 40x50 pixels."""
    import cv2
    import numpy

    return cv2.imencode(kind, numpy.full((40, 50, 3), seed % 256, "uint8") + numpy.uint8(seed // 256))[1].ravel()


def held(written: Any) -> int:
    return sum(pixels.nbytes + len(data) for (_, data), pixels in written._KEPT_IMAGES.items())


def test_the_same_bytes_are_decoded_once(written: Any, decoded: list[bytes]) -> None:
    """Also where they are in another array, behind a step, or cut off by nothing but zeros."""
    import numpy

    first = written._kept_image(image(1))
    for data in (image(1), numpy.repeat(image(1), 2)[::2]):
        again = written._kept_image(data)
        assert numpy.array_equal(first, again) and again.flags.writeable and again.flags.c_contiguous
    assert len(decoded) == 1
    written._kept_image(numpy.pad(image(1), (0, 9)))
    written._kept_image(image(1)[None])
    assert len(decoded) == 3


def test_what_is_handed_out_may_be_written_to(written: Any) -> None:
    import numpy

    kept = written._kept_image(image(1)).copy()
    for _ in range(3):
        pixels = written._kept_image(image(1))
        assert numpy.array_equal(pixels, kept)
        pixels[:] = 0


def test_bytes_are_bounded(written: Any, decoded: list[bytes]) -> None:
    for seed in range(200):
        written._kept_image(image(seed))
        written._kept_image(image(0))
        assert written._KEPT_BYTES[0] == held(written) <= 10**6
    assert len(decoded) == 200, "the one that is used most stays"
    assert len(written._KEPT_IMAGES) > 120
    written._kept_image(image(1))
    assert len(decoded) == 201, "the oldest one is gone"


def test_an_image_that_is_too_large(written: Any, decoded: list[bytes]) -> None:
    import cv2
    import numpy

    written._kept_image(image(1))
    large = cv2.imencode(".jpg", numpy.zeros((700, 700, 3), "uint8"))[1].ravel()
    for _ in range(2):
        assert written._kept_image(large).shape == (700, 700, 3)
    assert len(decoded) == 3 and len(written._KEPT_IMAGES) == 1


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 700), damage=st.lists(st.tuples(st.integers(0, 699), st.integers(0, 255)), max_size=4))
def test_what_opencv_gives_or_raises(written_once: Any, cut: int, damage: list[tuple[int, int]]) -> None:
    """Cut-off and damaged images, and what is no image, twice."""
    import cv2

    data = image(7)[:cut].copy()
    for place, value in damage:
        if place < len(data):
            data[place] = value
    expected = outcome(lambda: cv2.imdecode(data, cv2.IMREAD_COLOR))
    assert outcome(lambda: written_once._kept_image(data)) == expected
    assert outcome(lambda: written_once._kept_image(data)) == expected


@pytest.fixture(scope="module")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    for name in ("cv2", "h5py", "torch"):
        pytest.importorskip(name)
    return module_of(text_with(NAME), tmp_path_factory.mktemp("kept"), "act_utils_kept_once")


def outcome(decode: Callable[[], Any]) -> object:
    try:
        pixels = decode()
    except Exception as error:
        return type(error), str(error)
    return pixels if pixels is None else (pixels.shape, pixels.dtype, pixels.tobytes())


@pytest.mark.parametrize("kind", ["text", "object", "int16", "bytes"])
def test_what_is_no_array_of_bytes(written: Any, kind: str) -> None:
    import cv2
    import numpy

    data = {"text": "x", "object": numpy.array([{}, {}]), "int16": image(1).astype("int16"), "bytes": b"\xff\xd8"}[kind]
    expected = outcome(lambda: cv2.imdecode(data, cv2.IMREAD_COLOR))
    assert outcome(lambda: written._kept_image(data)) == outcome(lambda: written._kept_image(data)) == expected
    assert not written._KEPT_IMAGES


def test_threads(written: Any) -> None:
    import numpy

    wrong: list[int] = []

    def work(start: int) -> None:
        for number in range(300):
            seed = (start + number * 7) % 250
            if not numpy.all(abs(written._kept_image(image(seed)).astype(int) - seed) < 3):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert written._KEPT_BYTES[0] == held(written) <= 10**6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_while_a_thread_decodes(written: Any) -> None:
    """The lock is open in the new process, and what is kept is whole."""
    stop = threading.Event()

    def work() -> None:
        seed = 0
        while not stop.is_set():
            seed = (seed + 1) % 250
            written._kept_image(image(seed))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(8):
            child = os.fork()
            if child == 0:
                is_whole = written._KEPT_LOCK.acquire(timeout=20) and written._KEPT_BYTES[0] == held(written)
                os._exit(0 if is_whole else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
