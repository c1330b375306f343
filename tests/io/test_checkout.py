"""Which folder is meant, which file in it, and no way out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import snapshot

from apply_opt.errors import Ambiguous, ApplyOptError, NotRecognised, Refused
from apply_opt.io import catalog, checkout
from apply_opt.io.checkout import STATE_FOLDER, find, inside, ledger_root
from apply_opt.model.target import Target

ONE = Target("one", "One", (), "MIT", ("main.py", "src/main.py"), (b"alpha(", b"beta("), (), "")
TWO = ONE._replace(name="two", files=("other.py",), markers=(b"gamma(",))
GOOD = b"alpha()\nbeta()\n"


def tree(folder: Path, **contents: bytes) -> Path:
    """Files by name; ``__`` stands for a slash, and the ending is ``.py``."""
    for name, data in contents.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def where(start: Path, file: str | None = None, *targets: Target) -> tuple[str, str, str]:
    found = find(str(start), targets or (ONE, TWO), [file] if file else ())
    return os.path.relpath(found.root, start), found.file, found.target.name


def test_at_one_of_its_usual_places(tmp_path: Path) -> None:
    assert where(tree(tmp_path, main=GOOD)) == (".", "main.py", "one")
    (tmp_path / "main.py").unlink()
    assert where(tree(tmp_path, src__main=GOOD)) == (".", "src/main.py", "one")
    assert find(str(tmp_path), (ONE,)).path() == str(tmp_path / "src" / "main.py")


def test_a_name_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(NotRecognised, match="is not a checkout of one or two"):
        where(tree(tmp_path, main=b"alpha()\n", other=b"beta()\n"))


def test_from_a_folder_in_it(tmp_path: Path) -> None:
    tree(tmp_path, main=GOOD, deep__down__x=b"")
    assert where(tmp_path / "deep" / "down") == ("../..", "main.py", "one")


def test_the_nearest_one(tmp_path: Path) -> None:
    tree(tmp_path, main=GOOD, vendored__other=b"gamma()\n", vendored__lib__x=b"")
    assert where(tmp_path / "vendored" / "lib") == ("..", "other.py", "two")
    assert where(tmp_path) == (".", "main.py", "one")


def test_not_beyond_the_repository(tmp_path: Path) -> None:
    tree(tmp_path, main=GOOD, repo__x=b"")
    (tmp_path / "repo" / ".git").mkdir()
    with pytest.raises(NotRecognised, match=f"{tmp_path}/repo is not a checkout"):
        where(tmp_path / "repo")


@pytest.mark.parametrize("mark", [".git", STATE_FOLDER])
def test_searched_for_in_the_whole_repository(mark: str, tmp_path: Path) -> None:
    tree(tmp_path, a__b__moved=GOOD, c__x=b"")
    (tmp_path / mark).mkdir()
    assert where(tmp_path / "c") == ("..", "a/b/moved.py", "one")


def test_without_a_repository_only_below(tmp_path: Path) -> None:
    tree(tmp_path, a__moved=GOOD, c__x=b"")
    with pytest.raises(NotRecognised):
        where(tmp_path / "c")
    assert where(tmp_path) == (".", "a/moved.py", "one")


def test_not_in_what_is_not_the_users_code(tmp_path: Path) -> None:
    names = ("venv", ".venv", "node_modules", "__pycache__", "site-packages", STATE_FOLDER)
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_bytes(GOOD)
    tree(tmp_path, submodule__x=GOOD)
    (tmp_path / "submodule" / ".git").write_text("gitdir: ../.git/modules/x\n")
    (tmp_path / "big.py").write_bytes(GOOD + b"#" * 2_000_001)
    (tmp_path / "notes.txt").write_bytes(GOOD)
    with pytest.raises(NotRecognised):
        where(tmp_path)


def test_several_that_could_be_meant(tmp_path: Path) -> None:
    tree(tmp_path, a=GOOD, b__c=GOOD, d=b"gamma()")
    with pytest.raises(Ambiguous) as raised:
        where(tmp_path)
    assert raised.value.message.splitlines()[1:] == ["  a.py  (one)", "  d.py  (two)", "  b/c.py  (one)"]
    assert raised.value.next_step == "name one: --file a.py"
    assert where(tmp_path, "b/c.py") == (".", "b/c.py", "one")


def test_a_huge_tree_is_not_searched_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "MAX_SEARCHED", 3)
    tree(tmp_path, a=b"", b=b"", c=b"")
    with pytest.raises(NotRecognised, match="is not a checkout"):
        where(tmp_path)
    with pytest.raises(NotRecognised, match="holds more than 3 files"):
        where(tree(tmp_path, d=GOOD))


def test_where_the_ledger_is_there_is_the_root(tmp_path: Path) -> None:
    """From above and from beside the file, the state is in one place."""
    tree(tmp_path, src__main=GOOD)
    (tmp_path / ".git").mkdir()
    assert where(tmp_path / "src") == (".", "main.py", "one")
    (tmp_path / STATE_FOLDER).mkdir()
    assert where(tmp_path / "src") == ("..", "src/main.py", "one")
    (tmp_path / STATE_FOLDER).rmdir()
    (tmp_path / "src" / STATE_FOLDER).mkdir()
    for file in (None, "src/main.py"):
        assert where(tmp_path, file) == ("src", "main.py", "one")


def test_the_nearest_ledger(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert ledger_root(str(tmp_path / "a" / "b")) is None
    (tmp_path / STATE_FOLDER).mkdir()
    assert ledger_root(str(tmp_path / "a" / "b")) == str(tmp_path)
    (tmp_path / "a" / ".git").mkdir()
    assert ledger_root(str(tmp_path / "a" / "b")) is None
    (tmp_path / "a" / STATE_FOLDER).mkdir()
    assert ledger_root(str(tmp_path / "a" / "b")) == str(tmp_path / "a")


def test_no_such_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("nowhere", "file"):
        with pytest.raises(NotRecognised, match=f"{name} is not a folder") as raised:
            where(tmp_path / name)
        assert "--repo DIR" in raised.value.next_step


def test_through_links(tmp_path: Path) -> None:
    """The folder may be reached by a link; the file may be one, as long as it stays inside."""
    tree(tmp_path, real__real=GOOD)
    (tmp_path / "real" / "main.py").symlink_to("real.py")
    (tmp_path / "link").symlink_to("real")
    assert find(str(tmp_path / "link"), (ONE,)) == (str(tmp_path / "real"), ONE, "real.py", {})
    for file in ("main.py", str(tmp_path / "link" / "main.py"), "../real/main.py"):
        assert find(str(tmp_path / "link"), (ONE,), [file]) == (str(tmp_path / "real"), ONE, "real.py", {})


def test_links_that_lead_out(tmp_path: Path) -> None:
    tree(tmp_path, outside=GOOD, repo__x=b"")
    (tmp_path / "repo" / "main.py").symlink_to("../outside.py")
    for file in (None, "main.py", "../outside.py", str(tmp_path / "outside.py")):
        with pytest.raises(Refused, match="leads out of the checkout"):
            where(tmp_path / "repo", file)
    (tmp_path / "repo" / "main.py").unlink()
    (tmp_path / "repo" / "main.py").symlink_to("main.py")
    with pytest.raises(NotRecognised):
        where(tmp_path / "repo")


@pytest.mark.parametrize("file", ["nothing.py", "x.py", ".", "main.py/x"])
def test_a_file_that_is_not_one_of_theirs(file: str, tmp_path: Path) -> None:
    tree(tmp_path, main=GOOD, x=b"alpha()")
    with pytest.raises(NotRecognised, match=r"is not a file of one or two|there is no file"):
        where(tmp_path, file)


def test_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(NotRecognised, match="is not a checkout of any known target"):
        find(str(tmp_path), ())


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a\\..\\..\\x", "..", "link/x"])
def test_no_name_leads_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(Refused, match="leads out of the checkout") as raised:
        inside(str(tmp_path / "in"), name)
    assert "--repo DIR" in raised.value.next_step


def test_names_inside(tmp_path: Path) -> None:
    assert inside(str(tmp_path), "a/b.py") == str(tmp_path / "a" / "b.py")
    assert inside("/", "etc") == "/etc"
    assert inside(str(tmp_path), "..a") == str(tmp_path / "..a")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, main=GOOD)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ApplyOptError, match="cannot be read: Permission denied"):
        where(tmp_path)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    tree(tmp_path, a__moved=GOOD, b=b"")
    before = snapshot(tmp_path)
    where(tmp_path)
    assert snapshot(tmp_path) == before


class TestAnyMarkers:
    """One of them is enough; all of the others are needed."""

    THREE = ONE._replace(any_markers=(b"delta", b"epsilon"))

    def test_recognised(self, tmp_path: Path) -> None:
        for word in ("delta", "epsilon"):
            assert where(tree(tmp_path, main=GOOD + word.encode()), None, self.THREE) == (".", "main.py", "one")
        for data in (GOOD, b"alpha() delta epsilon"):
            with pytest.raises(NotRecognised):
                where(tree(tmp_path, main=data), None, self.THREE)

    def test_what_is_lacking_is_said(self, tmp_path: Path) -> None:
        tree(tmp_path, x=b"alpha()")
        with pytest.raises(NotRecognised) as raised:
            where(tmp_path, "x.py", self.THREE, TWO)
        assert raised.value.message.splitlines() == [
            "x.py is not a file of one or two",
            "  one: it lacks beta( and any of delta, epsilon",
            "  two: it lacks gamma(",
        ]


CALLS = b"class T:\n    def f(self):\n        return self.model.infer_encoder(x)\n"


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (b"infer_encoder(\nlog_mel_spectrogram(\n", True),
        (b"encode = model.infer_encoder\nfrom whisper import log_mel_spectrogram as mel\n", True),
        (CALLS + b"ort.InferenceSession(path)\n", True),
        (CALLS + b"speech_tokenizer_v1.onnx\n", True),
        (CALLS + b'result[0]["enc_out"]\n', True),
        (CALLS + b"result[0]['enc_out']\n", True),
        (CALLS, False),
        (b"def infer_encoder(self):\n    return {'enc_out': x, 'size': enc_output_size}\n", False),
        (b"log_mel_spectrogram(InferenceSession)\n", False),
    ],
)
def test_the_step_audio_tokenizer(data: bytes, known: bool) -> None:
    """FunASR's own files, which lie in the same trees, are not taken for it."""
    assert checkout.has_markers(data, catalog.load(packs=False).targets["step_audio_editx"]) is known


def test_our_own_trees_are_no_checkout(tmp_path: Path) -> None:
    """In site-packages apply-opt's own reference trees lie beside what is looked for."""
    tree(tmp_path, apply_opt__units__target_repos__one__reference__main=GOOD)
    with pytest.raises(NotRecognised):
        where(tmp_path)
    tree(tmp_path, other__main=GOOD)
    assert where(tmp_path) == (".", "other/main.py", "one")
