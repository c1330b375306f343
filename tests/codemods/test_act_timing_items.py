"""``act_timing_items``: stages around what makes an item, by the manifest alone; nothing in between."""

from __future__ import annotations

import sys

import pytest
from cases import codemod, plan, refuses, replaced, skips, with_class, with_tabs
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "act_timing_items"
REFERENCE = (ROOT / "target_repos/act/reference/utils.py").read_text(encoding="utf-8")
CLASS, HEADER = "class Episodes(torch.utils.data.Dataset):\n", "def __getitem__(self, index):"
CLOCK = "from time import perf_counter_ns as _now"
BODY = """
'''One moment.'''
path = self.path(index)
with h5py.File(path, 'r') as root:
    start_ts = np.random.choice(len(root['/action']))
    qpos = root['/observations/qpos'][start_ts]
    images = dict()
    for name in self.camera_names:
        images[name] = root[f'/observations/images/{name}'][start_ts]
    if root.attrs['sim']:
        action = root['/action'][start_ts:]
    else:
        action = root['/action'][max(0, start_ts - 1):]
# tensors
image_data = torch.from_numpy(np.stack([images[name] for name in self.camera_names]))
image_data = image_data / 255.0
return image_data, qpos, action
"""
TIMED = """
'''One moment.'''
_t00_TOTAL_getitem.start()
path = self.path(index)
_t01.start()
with h5py.File(path, 'r') as root:
    _t01.stop()
    start_ts = np.random.choice(len(root['/action']))
    _t02.start()
    qpos = root['/observations/qpos'][start_ts]
    _t02.stop()
    images = dict()
    _t03.start()
    for name in self.camera_names:
        _t03a.start()
        images[name] = root[f'/observations/images/{name}'][start_ts]
        _t03a.stop()
    _t03.stop()
    _t04.start()
    if root.attrs['sim']:
        action = root['/action'][start_ts:]
    else:
        action = root['/action'][max(0, start_ts - 1):]
    _t04.stop()
# tensors
_t05.start()
image_data = torch.from_numpy(np.stack([images[name] for name in self.camera_names]))
image_data = image_data / 255.0
_t05.stop()
_t00_TOTAL_getitem.stop()
return image_data, qpos, action
"""


def module(body: str = BODY, header: str = HEADER, more: str = "") -> str:
    """A data set with this item."""
    return with_class("import h5py\nimport numpy as np\nimport torch", CLASS, {header: body}) + more


def becomes(before: str, after: str) -> None:
    """The file with stages, but for the clock at its end; again nothing, and out of it the same as before."""
    outcome = plan(NAME, before)
    assert outcome.kind == PLANNED, outcome.message
    text = outcome.after.decode()
    compile(text, "utils.py", "exec")
    assert text.partition(CLOCK)[0].rstrip() == after.rstrip()
    skips(NAME, text, ALREADY)


def test_lands() -> None:
    becomes(module(), module(TIMED))
    becomes(with_tabs(module()), with_tabs(module(TIMED)))


def test_lands_on_the_reference() -> None:
    outcome = plan(NAME, REFERENCE)
    text = outcome.after.decode()
    assert "    return _t03b.stop(cv2.imdecode(data, cv2.IMREAD_COLOR))" in text
    assert (
        "return _t00_TOTAL_getitem.stop((image_data, qpos_data, action_data, torch.from_numpy(is_pad).bool()))" in text
    )
    skips(NAME, text, ALREADY)


@pytest.mark.parametrize(
    ("old", "new", "timed_old", "timed_new"),
    [
        ("root['/observations/qpos'][start_ts]", 'root["observations"]["qpos"][()]', None, None),
        (
            "    images[name] = root[f'/observations/images/{name}'][start_ts]",
            "    images[name] = root['/observations/images'][name][start_ts]",
            None,
            None,
        ),
        (
            "    if root.attrs['sim']:\n        action = root['/action'][start_ts:]\n"
            "    else:\n        action = root['/action'][max(0, start_ts - 1):]\n",
            "    action = root['/action'][()]\n",
            None,
            None,
        ),
        ("torch.from_numpy(np.stack", "torch.as_tensor(np.stack", None, None),
        ("return image_data, qpos, action", "return image_data", None, None),
        (
            "return image_data, qpos, action",
            "return {'image': image_data}",
            "_t00_TOTAL_getitem.stop()\nreturn image_data, qpos, action",
            "return _t00_TOTAL_getitem.stop({'image': image_data})",
        ),
        (
            "return image_data, qpos, action",
            "return (image_data,\n        qpos.copy())",
            "_t00_TOTAL_getitem.stop()\nreturn image_data, qpos, action",
            "return _t00_TOTAL_getitem.stop((image_data,\n        qpos.copy()))",
        ),
        (
            "return image_data, qpos, action",
            "return (image_data - 0.5) / 0.5, qpos, (action)",
            "_t00_TOTAL_getitem.stop()\nreturn image_data, qpos, action",
            "return _t00_TOTAL_getitem.stop(((image_data - 0.5) / 0.5, qpos, (action)))",
        ),
        (
            "return image_data, qpos, action",
            "return(image_data.float(), qpos)",
            "_t00_TOTAL_getitem.stop()\nreturn image_data, qpos, action",
            "return _t00_TOTAL_getitem.stop((image_data.float(), qpos))",
        ),
        (
            "path = self.path(index)",
            "path = self.path(index)\nif path is None:\n    return None",
            "path = self.path(index)",
            "path = self.path(index)\nif path is None:\n    _t00_TOTAL_getitem.stop()\n    return None",
        ),
        ("h5py.File(path, 'r')", "_kept_open(path)", None, None),
    ],
)
def test_other_forms(old: str, new: str, timed_old: str | None, timed_new: str | None) -> None:
    becomes(module(replaced(BODY, (old, new))), module(replaced(TIMED, (timed_old or old, timed_new or new))))


def test_what_need_not_be_there() -> None:
    """An item without an opening of its own, and one with images that are decoded."""
    plain = replaced(BODY, ("with h5py.File(path, 'r') as root:", "with self.open(path) as root:"))
    timed = replaced(
        TIMED,
        ("_t01.start()\nwith h5py.File(path, 'r') as root:\n    _t01.stop()\n", "with self.open(path) as root:\n"),
    )
    becomes(module(plain), module(timed))
    decoded = ("# tensors\n", "for name in images:\n    images[name] = cv2.imdecode(images[name], 1)\n# tensors\n")
    there = (
        "for name in images:\n    _t03b.start()\n    images[name] = cv2.imdecode(images[name], 1)\n    _t03b.stop()\n"
    )
    becomes(module(replaced(BODY, decoded)), module(replaced(TIMED, ("# tensors\n", there + "# tensors\n"))))


def test_images_from_elsewhere() -> None:
    """Then there is no stage of theirs."""
    text = plan(
        NAME, module(replaced(BODY, ("root[f'/observations/images/{name}'][start_ts]", "self.image(name)")))
    ).after
    assert b"_t03" not in text
    assert b"_t04.start()" in text


def test_parts_of_a_stage_are_named() -> None:
    text = plan(NAME, module()).after.decode()
    assert '_t03a = _timing.stage("03a_read_one_camera", within="03_read_images_total")' in text
    assert '_t03 = _timing.stage("03_read_images_total", within="00_TOTAL_getitem")' in text
    assert "_t03b" not in text


@pytest.mark.parametrize("last", ["", "\nif __name__ == '__main__':\n    print(Episodes())\n", "\nprint(Episodes())\n"])
def test_the_clock_is_ahead_of_what_runs(last: str) -> None:
    text = plan(NAME, module(more=last)).after.decode()
    assert text.rstrip().endswith(last.strip()) if last else text.rstrip().endswith('within="00_TOTAL_getitem")')
    assert text.count(CLOCK) == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_that_ends_in_the_middle_of_a_line(newline: str) -> None:
    before = (module() + "def last():\n    return 1").replace("\n", newline)
    text = plan(NAME, before).after.decode()
    compile(text, "utils.py", "exec")
    assert f"    return 1{newline * 3}{CLOCK}" in text
    assert newline == "\n" or "\n" not in text.replace("\r\n", "")
    skips(NAME, text, ALREADY)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (("    qpos = root['/observations/qpos'][start_ts]\n", ""), NoSite, "no function called __getitem__"),
        (
            ("    images = dict()\n", "    images = dict(); more = root['/observations/qpos'][0]\n"),
            Ambiguous,
            "has several places",
        ),
        (
            ("qpos = root['/observations/qpos'][start_ts]", "a = 1; qpos = root['/observations/qpos'][0]"),
            Ambiguous,
            "shares",
        ),
        (
            ("        images[name] =", "        if name in self.bad:\n            return None\n        images[name] ="),
            Ambiguous,
            "may be left",
        ),
        (
            (
                "        images[name] =",
                "        if name in self.bad:\n            raise OSError\n        images[name] =",
            ),
            None,
            "",
        ),
        (
            ("        images[name] =", "        if name in self.bad:\n            continue\n        images[name] ="),
            None,
            "",
        ),
        (("image_data = image_data / 255.0", "image_data = yield image_data"), Ambiguous, "left"),
    ],
)
def test_what_is_not_there_or_cannot_be_timed(
    change: tuple[str, str], error: type[Ambiguous] | type[NoSite] | None, words: str
) -> None:
    text = module(replaced(BODY, change))
    if error is None:
        assert plan(NAME, text).kind == PLANNED
    else:
        refuses(NAME, text, error, words)


LOOP = "    for name in self.camera_names:\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("path = self.path(index)", "path = self.path(index)\nif path is None: return None"), "begins or ends beside"),
        (("return image_data, qpos, action", "return {'q': root['/observations/qpos'][0]}"), "several places"),
        ((LOOP, LOOP + "        ready = torch.from_numpy(start_ts)\n"), "05_to_tensor_normalize goes on behind"),
        (("['/action'][start_ts:]", "['/action'][start_ts:], root['/observations/qpos'][0]"), "several places"),
        (("qpos = root['/obs", "action, qpos = root['/action'][0], root['/obs"), "several places"),
    ],
)
def test_what_cannot_be_told_apart(change: tuple[str, str], words: str) -> None:
    refuses(NAME, module(replaced(BODY, change)), Ambiguous, words)


def test_two_stages_in_one_statement() -> None:
    start, end = BODY.index("    if root.attrs"), BODY.index("# tensors")
    body = BODY[:start] + BODY[end:]
    text = replaced(body, ("qpos = root['/obs", "action, qpos = root['/action'][0], root['/obs"))
    refuses(NAME, module(text), Ambiguous, "in one statement with another stage")


def test_images_in_a_comprehension() -> None:
    """All of them in one statement, or later: that is no reading of one camera."""
    start, end = BODY.index("    images = dict()"), BODY.index("    if root.attrs")
    for brackets in ("[{}]", "list({})", "({})"):
        some = brackets.format("root[f'/observations/images/{name}'][start_ts] for name in self.camera_names")
        text = plan(NAME, module(f"{BODY[:start]}    images = {some}\n{BODY[end:]}")).after.decode()
        assert "_t02.start()" in text
        assert "_t03" not in text


def test_an_encoding_without_chinese() -> None:
    text = "# -*- coding: latin-1 -*-\n" + module()
    outcome = plan(NAME, text.encode("latin-1"))
    assert "latin-1" in outcome.message or "iso-8859-1" in outcome.message
    assert "UTF-8" in outcome.next_step


def test_a_data_set_that_is_used_half_way() -> None:
    """What stages need is there before anything runs."""
    text = plan(
        NAME, module(more="\nWARM = Episodes()[0]\n\n\ndef decoded(data):\n    return cv2.imdecode(data, 1)\n")
    ).after
    assert text.index(b"_t00_TOTAL_getitem = ") < text.index(b"WARM = ")
    assert b"_t03b.stop(cv2.imdecode" in text


@pytest.mark.parametrize(
    ("other", "decoder"), [("act_decode_cache", "_kept_image"), ("act_simplejpeg", "_decoded_jpeg")]
)
def test_images_that_another_optimization_decodes(other: str, decoder: str) -> None:
    """Where they are wanted, and not where what decodes them asks OpenCV."""
    text = plan(NAME, plan(other, REFERENCE).after).after.decode()
    assert text.count("_t03b.") == 2 and f"return _t03b.stop({decoder}(data))" in text


def test_look_alikes() -> None:
    refuses(NAME, module(header="def item(self, index):"), NoSite, "no function called __getitem__")
    refuses(NAME, module(f'return """{BODY}"""'.replace("'''", "")), NoSite, "no function called __getitem__")


def test_two_data_sets() -> None:
    more = with_class("", "class Others:\n", {HEADER: BODY})
    refuses(NAME, module(more=more), Ambiguous, "several functions", "line")


@pytest.mark.parametrize("decorator", ["torch.compile", "torch.jit.script_method", "functools.lru_cache(maxsize=8)"])
def test_what_is_not_run_as_it_is_written(decorator: str) -> None:
    text = module().replace(f"    {HEADER}", f"    @{decorator}\n    {HEADER}")
    refuses(NAME, text, Conflict, "not run as it is written")


@pytest.mark.parametrize("name", ["_timing", "_Stage", "_now", "_t02"])
def test_names_that_are_taken(name: str) -> None:
    refuses(NAME, module(more=f"\n{name} = 3\n"), Conflict, name)


@pytest.mark.parametrize(
    "line", ["_t02.start()", "_t00_TOTAL_getitem.stop()", "_timing = _Timing()", '_t05 = _timing.stage("05']
)
def test_half_of_it(line: str) -> None:
    text = plan(NAME, module()).after.decode()
    (whole,) = [each for each in text.splitlines(keepends=True) if each.strip().startswith(line)]
    refuses(NAME, text.replace(whole, ""), PartlyApplied, "partly applied")


def test_another_clock() -> None:
    text = plan(NAME, module()).after.decode()
    refuses(NAME, replaced(text, ("EVERY, MOST_EVENTS = 10, ", "EVERY, MOST_EVENTS = 5, ")), PartlyApplied, "_Timing")


def test_a_manifest_that_is_not_complete() -> None:
    make = sys.modules[type(codemod(NAME)).__module__].from_manifest
    stage = {"name": "00", "holds": ["a(...)"]}
    make({"function": "f", "stages": [stage], "laps": "00"})
    for table, words in (
        ({"function": "f"}, "timing has"),
        ({"stages": [stage]}, "timing has"),
        ({"function": "f", "stages": [stage, stage]}, "names of their own"),
        ({"function": "f", "stages": [{**stage, "name": f"{n:02}"} for n in range(25)]}, "24 at most"),
        ({"function": "f", "stage": [stage], "stages": [stage]}, "timing has"),
        ({"function": "f", "stages": [stage], "laps": "01"}, "laps is one of them"),
        ({"function": "f", "stages": [stage], "steps": 0}, "timing has"),
        ({"function": "f", "stages": [{"name": "00"}]}, "what it holds"),
        ({"function": "f", "stages": [{**stage, "span": "line"}]}, "a span"),
        ({"function": "f", "stages": [{**stage, "span": "block"}]}, "what it is under"),
        ({"function": "f", "stages": [{**stage, "phase": "trainig"}]}, "a phase"),
        ({"function": "f", "stages": [{**stage, "spam": 1}]}, "a stage has a name"),
        ({"function": "f", "stages": [{**stage, "name": 'a"b'}]}, "a stage has a name"),
        ({"function": "f", "stages": [{"holds": ["a(...)"]}]}, "a stage has a name"),
        ({"function": "f", "stages": [{**stage, "holds": ["a ="]}]}, "no expression"),
    ):
        with pytest.raises(ValueError, match=words):
            make(table)
