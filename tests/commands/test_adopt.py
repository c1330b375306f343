"""``adopt``: what ``patch -p1`` put in is taken over where it is certain, and nothing else ever is."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    EVERYTHING,
    LIGHT,
    QUICK,
    REFERENCE,
    ROOT,
    TF32,
    THREADS,
    Ran,
    call,
    commit_all,
    contents,
    copy,
    git,
    patched,
    snapshot,
)

from apply_opt.model.digest import sha256

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()
SHIPPED = (ROOT / "patches" / "tokenizer_quick_optimize.patch").read_bytes()
MARK = b"# the user's\n"
needs_patch = pytest.mark.skipif(not shutil.which("patch"), reason="no GNU patch")
pytestmark = needs_patch


def tokenizer(folder: Path) -> bytes:
    return (folder / "tokenizer.py").read_bytes()


def edit(folder: Path, change: Callable[[bytes], bytes]) -> None:
    data = change(tokenizer(folder))
    assert data != tokenizer(folder)
    (folder / "tokenizer.py").write_bytes(data)


def states(run: Run, folder: Path) -> dict[str, str]:
    document = json.loads(run("status", "--json", cwd=folder).out)
    return {name: found["state"] for name, found in document["optimizations"].items() if name in QUICK}


def test_the_published_patch(checkout: Path, run: Run) -> None:
    """It was made for upstream's file and fits the reference's with offsets."""
    ran = patched(checkout, SHIPPED)
    assert ran.returncode == 0
    assert b"offset" in ran.stdout
    assert states(run, checkout) == {TF32: "applied by hand", THREADS: "applied by hand", LIGHT: "not applied"}
    assert "apply-opt adopt" in run("status", cwd=checkout).out
    ran = run("adopt", cwd=checkout)
    assert ran.code == 0
    assert f"{TF32} is taken over\n{THREADS} is taken over\n" in ran.out
    assert states(run, checkout) == {TF32: "applied", THREADS: "applied", LIGHT: "not applied"}
    assert run("revert", TF32, cwd=checkout).code == 0
    assert run("revert", "--all", cwd=checkout).code == 0
    assert contents(checkout) == contents(REFERENCE, "__pycache__")


@pytest.mark.parametrize(
    "name", ["tokenizer_quick_optimize.patch", "tokenizer_light_model.patch", *(f"{n}/reference.patch" for n in QUICK)]
)
def test_each_patch_that_is_published(name: str, git_checkout: Path, run: Run) -> None:
    assert patched(git_checkout, (ROOT / "patches" / name).read_bytes()).returncode == 0
    before = tokenizer(git_checkout)
    assert run("adopt", cwd=git_checkout / "funasr_detach").code == 0
    assert tokenizer(git_checkout) == before
    assert json.loads((git_checkout / ".apply-opt" / "ledger.json").read_text())["entries"][0]["by"] == "adopt"
    assert run("revert", "--all", cwd=git_checkout).code == 0
    assert contents(git_checkout, ".git") == contents(REFERENCE, "__pycache__")


EXPORTS: dict[str, tuple[str, ...]] = {
    "all three": ("tokenizer_quick", *EVERYTHING),
    "a number": (THREADS, "--set", "intra_op=3", "--set", "inter_op=2", "--set", "execution_mode=parallel"),
    "for the process": (TF32, "--allow", "lossy", "--set", "scope=process", "--set", "precision=medium"),
    "a name with spaces and quotes": (LIGHT, *EVERYTHING, "--set", 'model_id=it\'s "a" model'),
    "a name in Chinese": (LIGHT, *EVERYTHING, "--set", "model_id=模型/大"),
    "two with settings": (THREADS, TF32, "--allow", "lossy", "--set", "intra_op=2", "--set", "scope=process"),
}


@pytest.mark.parametrize("words", EXPORTS.values(), ids=EXPORTS.keys())
@pytest.mark.parametrize("with_edits", [False, True])
def test_an_exported_patch(words: tuple[str, ...], with_edits: bool, checkout: Path, run: Run, tmp_path: Path) -> None:
    exported = run("export", *words, cwd=checkout)
    assert exported.code == 0
    (tmp_path / "x.patch").write_bytes(exported.raw)
    assert patched(checkout, exported.raw).returncode == 0
    if with_edits:
        edit(checkout, lambda data: MARK + data.replace(b"    def __call__", b"    # mine\n    def __call__") + MARK)
    now = tokenizer(checkout)
    ran = run("adopt", "--patch", "../x.patch", cwd=checkout)
    assert ran.code == 0, ran
    assert tokenizer(checkout) == now
    again = run(*words, cwd=checkout)
    assert again.code == 0
    assert "already applied" in again.out, "its parameters are known, too"
    assert run("revert", "--all", cwd=checkout).code == 0
    expected = (
        MARK + PLAIN.replace(b"    def __call__", b"    # mine\n    def __call__") + MARK if with_edits else PLAIN
    )
    assert tokenizer(checkout) == expected


def test_with_git_apply(git_checkout: Path, run: Run) -> None:
    from support import git

    (git_checkout / "x.patch").write_bytes(run("export", "tokenizer_quick", *EVERYTHING, cwd=git_checkout).raw)
    git("apply", "x.patch", cwd=git_checkout)
    assert run("adopt", "--patch", "x.patch", cwd=git_checkout).code == 0
    assert run("revert", "--all", cwd=git_checkout).code == 0
    assert tokenizer(git_checkout) == PLAIN


def test_in_a_folder_below_the_one_that_is_named(run: Run, tmp_path: Path) -> None:
    folder = copy(REFERENCE, tmp_path / "big" / "step")
    commit_all(tmp_path / "big")
    assert patched(folder, SHIPPED).returncode == 0
    assert run("adopt", "--repo", tmp_path / "big", cwd=tmp_path).code == 0
    assert run("revert", "--all", cwd=folder).code == 0
    assert tokenizer(folder) == PLAIN


# What is refused, with nothing written.


def refused(run: Run, folder: Path, *words: object) -> Ran:
    before = snapshot(folder)
    ran = run("adopt", *words, cwd=folder)
    assert snapshot(folder) == before
    assert ran.out == ""
    assert len(ran.err.splitlines()) >= 2, ran.err
    document = json.loads(run("adopt", *words, "--json", cwd=folder).out)
    assert document["error"]["exit_code"] == ran.code
    assert snapshot(folder) == before
    return ran


def test_nothing_to_take_over(checkout: Path, run: Run) -> None:
    ran = refused(run, checkout)
    assert ran.code == 3
    assert "tokenizer.py holds none of the patches that come with apply-opt" in ran.err
    assert "apply-opt adopt --patch FILE" in ran.err


EDITED = {
    "a line of ours edited": lambda data: data.replace(b"    return cores\n", b"    return cores + 1\n"),
    "a line put in between": lambda data: data.replace(b"    return cores\n", b"    # mine\n    return cores\n"),
    "a line of ours gone": lambda data: data.replace(b"    @_with_tf32_matmul\n", b""),
    "doubled": lambda data: data.replace(b"    @_with_tf32_matmul\n", b"    @_with_tf32_matmul\n" * 2),
}


@pytest.mark.parametrize("change", EDITED.values(), ids=EDITED.keys())
def test_edited_lines(change: Callable[[bytes], bytes], checkout: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.patch").write_bytes(SHIPPED)
    patched(checkout, SHIPPED)
    edit(checkout, change)
    assert refused(run, checkout).code == 3
    ran = refused(run, checkout, "--patch", tmp_path / "x.patch")
    assert ran.code == 3
    assert "of the patch does not stand there" in ran.err


def test_a_patch_of_another_version(checkout: Path, run: Run, tmp_path: Path) -> None:
    """It can be taken out, but we would not have put it in like that: we could not tell what is ours later."""
    exported = run("export", THREADS, cwd=checkout).raw.replace(b"    return cores\n", b"    return cores - 1\n")
    (tmp_path / "x.patch").write_bytes(exported)
    assert patched(checkout, exported).returncode == 0
    ran = refused(run, checkout, "--patch", tmp_path / "x.patch")
    assert ran.code == 3
    assert f"tokenizer.py is not what {THREADS} makes of it" in ran.err
    assert "patch -R -p1 < " in ran.err


def test_a_patch_that_hides_something(checkout: Path, run: Run, tmp_path: Path) -> None:
    """Under the name of an optimization, with a line more."""
    exported = run("export", TF32, "--allow", "lossy", cwd=checkout).raw
    evil = exported.replace(b"+    @_with_tf32_matmul\n", b"+    @_with_tf32_matmul\n+    @evil\n")
    evil = re.sub(rb"(@@ -\d+,6 \+\d+,)7", rb"\g<1>8", evil)
    (tmp_path / "x.patch").write_bytes(evil)
    assert patched(checkout, evil).returncode == 0
    assert b"@evil" in tokenizer(checkout)
    assert refused(run, checkout, "--patch", tmp_path / "x.patch").code == 3


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "does not say which optimizations it holds"),
        (b"X-Apply-Opt: no_such_thing\n", "does not say which optimizations it holds"),
        (b"X-Apply-Opt: tokenizer_tf32 no_such_thing\n", "does not say which optimizations it holds"),
        (b"X-Apply-Opt: tokenizer_tf32\n", "is not what tokenizer_tf32 makes of it"),
        (b"X-Apply-Opt: tokenizer_ort_threads tokenizer_ort_threads\n", "would not land: already there"),
        (b"X-Apply-Opt: tokenizer_ort_threads\nX-Apply-Opt-Set: x\n", "a setting is key=value"),
        (b"X-Apply-Opt: tokenizer_ort_threads\nX-Apply-Opt-Set: 'x\n", "X-Apply-Opt-Set cannot be read"),
        (b"X-Apply-Opt: tokenizer_ort_threads\nX-Apply-Opt-Set: tokenizer_ort_threads.x=1\n", "no parameter called x"),
        (
            b"X-Apply-Opt: tokenizer_ort_threads\nX-Apply-Opt-Set: tokenizer_ort_threads.intra_op=x\n",
            "takes a whole number",
        ),
        (b"X-Apply-Opt: tokenizer_ort_threads\nX-Apply-Opt-Set: tokenizer_ort_threads.intra_op=4\n", "is not what"),
    ],
)
def test_a_header_that_does_not_fit(header: bytes, message: str, checkout: Path, run: Run, tmp_path: Path) -> None:
    exported = run("export", THREADS, cwd=checkout).raw
    assert patched(checkout, exported).returncode == 0
    (tmp_path / "x.patch").write_bytes(header + exported[exported.index(b"--- a/") :])
    ran = refused(run, checkout, "--patch", tmp_path / "x.patch")
    assert ran.code in (1, 2, 3)
    assert message in ran.err


def test_beside_what_is_applied(checkout: Path, run: Run) -> None:
    """A patch that was put in on top of an applied optimization is taken over beside it; both come out."""
    original = (checkout / "tokenizer.py").read_bytes()
    run(LIGHT, *EVERYTHING, cwd=checkout)
    patched(checkout, SHIPPED)
    ran = run("adopt", "--json", cwd=checkout)
    assert ran.code == 0, ran
    assert json.loads(ran.out)["patches"] == ["tokenizer_quick_optimize.patch"]
    assert run("adopt", cwd=checkout).code == 3, "there is nothing more"
    assert run("revert", LIGHT, cwd=checkout).code == 0
    assert run("revert", "--all", cwd=checkout).code == 0
    assert (checkout / "tokenizer.py").read_bytes() == original


def test_no_such_patch(checkout: Path, run: Run) -> None:
    ran = refused(run, checkout, "--patch", "nowhere.patch")
    assert ran.code == 2
    assert "there is no file nowhere.patch" in ran.err
    assert refused(run, checkout, "--patch", ".").code == 1


GOOD = SHIPPED[SHIPPED.index(b"--- a/") :]


def renamed(old: bytes, new: bytes = b"") -> bytes:
    return SHIPPED.replace(b"a/tokenizer.py", old).replace(b"b/tokenizer.py", new or old)


MALICIOUS = {
    "up and out": renamed(b"a/../tokenizer.py"),
    "far up and out": renamed(b"a/../../../../etc/passwd"),
    "absolute": renamed(b"/etc/passwd"),
    "absolute behind the prefix": renamed(b"a//etc/passwd"),
    "a drive": renamed(b"C:\\tokenizer.py"),
    "backslashes": renamed(b"a/x\\..\\..\\tokenizer.py"),
    "another file": renamed(b"a/utils.py", b"b/utils.py"),
    "two names": renamed(b"a/utils.py", b"b/tokenizer.py"),
    "two files": SHIPPED + GOOD.replace(b"tokenizer.py", b"utils.py"),
    "the file twice": SHIPPED + GOOD,
    "a rename": b"diff --git a/utils.py b/tokenizer.py\nsimilarity index 90%\nrename from utils.py\nrename to tokenizer.py\n"
    + GOOD,
    "a new file": SHIPPED.replace(b"--- a/tokenizer.py", b"--- /dev/null"),
    "a deleted file": SHIPPED.replace(b"+++ b/tokenizer.py", b"+++ /dev/null"),
    "a binary file": b"diff --git a/tokenizer.py b/tokenizer.py\nBinary files a/tokenizer.py and b/tokenizer.py differ\n",
    "a git binary patch": b"diff --git a/tokenizer.py b/tokenizer.py\nindex 1..2\nGIT binary patch\nliteral 2\nJcmZQz\n\n",
    "an ed script": b"X-Apply-Opt: tokenizer_tf32\n1i\n!touch pwned\n.\nw\nq\n",
    "a context diff": b"*** a/tokenizer.py\n--- b/tokenizer.py\n***************\n*** 1 ****\n! import io\n--- 1 ----\n! import evil\n",
    "cut off": SHIPPED[:-60],
    "wrong counts": re.sub(rb"@@ -(\d+),2 ", rb"@@ -\1,3 ", SHIPPED),
    "counts that leave lines over": re.sub(rb"(@@ -\d+,\d+ \+\d+),(\d\d) ", rb"\1,5 ", SHIPPED),
    "carriage returns": SHIPPED.replace(b"\n", b"\r\n"),
    "empty": b"",
    "nul bytes": SHIPPED.replace(b"import functools", b"\0\0\0"),
}


@pytest.mark.parametrize("data", MALICIOUS.values(), ids=MALICIOUS.keys())
def test_malicious_patches(data: bytes, checkout: Path, run: Run, tmp_path: Path) -> None:
    assert data != SHIPPED
    patched(checkout, SHIPPED)
    (tmp_path / "x.patch").write_bytes(data)
    outside = snapshot(tmp_path)
    ran = refused(run, checkout, "--patch", "../x.patch")
    assert ran.code in (1, 3), ran
    assert snapshot(tmp_path) == outside
    assert run("adopt", cwd=checkout).code == 0, "the tree itself is fine"


@settings(max_examples=30)
@given(data=st.one_of(st.binary(max_size=200), st.data()))
def test_any_bytes_are_an_error_and_never_written(data: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_bytes"
    if not folder.exists():
        copy(REFERENCE, folder)
        patched(folder, SHIPPED)
    patch = folder.parent / "any.patch"
    if not isinstance(data, bytes):  # the good patch, with a few bytes of it changed
        text = bytearray(SHIPPED)
        for _ in range(data.draw(st.integers(1, 4))):  # type: ignore[attr-defined]
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))  # type: ignore[attr-defined]
        data = bytes(text)
    patch.write_bytes(data)
    before = snapshot(folder)
    ran = call("adopt", "--patch", patch, cwd=folder)
    if ran.code == 0:  # what was changed does not matter: white space or words in the header
        assert call("revert", "--all", cwd=folder).code == 0
        assert tokenizer(folder) == PLAIN
        patched(folder, SHIPPED)
        return
    assert ran.code in (1, 2, 3), ran
    assert snapshot(folder) == before


def test_a_patch_that_is_a_pipe(checkout: Path, run: Run, tmp_path: Path) -> None:
    """``adopt --patch <(apply-opt export …)``."""
    exported = run("export", THREADS, cwd=checkout).raw
    patched(checkout, exported)
    reading, writing = os.pipe()
    os.write(writing, exported)
    os.close(writing)
    assert run("adopt", "--patch", f"/dev/fd/{reading}", cwd=checkout).code == 0
    os.close(reading)


def test_a_patch_of_ones_own_that_git_knows_the_original_of(git_checkout: Path, run: Run) -> None:
    """What status calls applied by hand can be taken over: here, a fork's exported patch without its file."""
    path = git_checkout / "tokenizer.py"
    path.write_bytes(path.read_bytes().replace(b"session_option", b"so"))
    git("commit", "--quiet", "--all", "--message", "a fork", cwd=git_checkout)
    exported = run("export", THREADS, cwd=git_checkout).raw
    assert patched(git_checkout, exported).returncode == 0
    assert states(run, git_checkout)[THREADS] == "applied by hand"
    ran = run("adopt", "--json", cwd=git_checkout)
    assert ran.code == 0, ran
    assert json.loads(ran.out)["patches"] == ["the last commit"]
    assert states(run, git_checkout)[THREADS] == "applied"
    assert run("revert", "--all", cwd=git_checkout).code == 0
    assert git("status", "--porcelain", cwd=git_checkout) == ""


def test_a_whole_bundle_since_the_last_commit(git_checkout: Path, run: Run) -> None:
    """It is more than can be tried in every order; a bundle has one of its own."""
    before = contents(git_checkout)
    made = run("export", "tokenizer_fast", cwd=git_checkout).raw
    patched(git_checkout, made)
    found = json.loads(run("adopt", "--json", cwd=git_checkout).out)
    assert len(found["adopted"]) > 5 and found["left"] == []
    assert "applied by hand" not in run("status", cwd=git_checkout).out
    assert run("revert", "--all", cwd=git_checkout).code == 0
    assert contents(git_checkout) == before


def test_not_beside_other_edits_since_the_last_commit(git_checkout: Path, run: Run) -> None:
    exported = run("export", THREADS, "--set", "inter_op=2", cwd=git_checkout).raw
    assert patched(git_checkout, exported).returncode == 0
    (git_checkout / "tokenizer.py").write_bytes((git_checkout / "tokenizer.py").read_bytes() + b"# mine\n")
    before = contents(git_checkout)
    ran = run("adopt", cwd=git_checkout)
    assert ran.code == 3
    assert "apply-opt adopt --patch FILE" in ran.err
    assert contents(git_checkout) == before


def test_entries_follow_each_other(checkout: Path, run: Run) -> None:
    """Two patches in one look: each entry begins where the one before it ended."""
    for name in ("tokenizer_quick_optimize.patch", "tokenizer_light_model.patch"):
        assert patched(checkout, (ROOT / "patches" / name).read_bytes()).returncode == 0
    assert run("adopt", cwd=checkout).code == 0
    entries = json.loads((checkout / ".apply-opt" / "ledger.json").read_bytes())["entries"]
    files = [entry["files"][0] for entry in entries]
    assert len(files) == 3
    assert [file["after"] for file in files[:-1]] == [file["before"] for file in files[1:]]
    assert files[0]["before"] == sha256((REFERENCE / "tokenizer.py").read_bytes())
