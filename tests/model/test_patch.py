"""Unified diffs: what we make, GNU patch and git take; what we read is a plain, safe diff or an error."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apply_opt.errors import ApplyOptError, Conflict
from apply_opt.model.merge import split
from apply_opt.model.patch import FilePatch, PatchError, apply, headers, make, parse

BEFORE = b"".join(b"line %d\n" % n for n in range(20))
AFTER = BEFORE.replace(b"line 3\n", b"line 3, ours\n").replace(b"line 15\n", b"line 15\nours\n")
NAME = "x.patch"


def only(data: bytes) -> FilePatch:
    """The one file of a patch."""
    (file,) = parse(data, NAME)
    return file


def test_looks_as_gnu_diff_writes_it() -> None:
    assert make(b"a\nb\nc\n", b"a\nB\nc\n", "x.py") == b"--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
    assert make(b"", b"a\n", "x.py") == b"--- a/x.py\n+++ b/x.py\n@@ -0,0 +1 @@\n+a\n"
    assert make(b"a\n", b"a\n", "x.py") == b""


def test_context_is_as_long_as_asked() -> None:
    assert make(BEFORE, AFTER, "x.py", context=1).count(b"\n ") == 4
    assert make(BEFORE, AFTER, "x.py", context=0).count(b"\n ") == 0
    assert make(BEFORE, AFTER, "x.py", context=8).count(b"\n@@ ") == 1  # one hunk: the two meet


ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\x0c\n", b" \n", b"\r\r\n"])
TEXT = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"", b"-- x", b"++ x", b"\\ No", b"@@ -1 +1 @@", b"\xe9"]), ENDS),
    max_size=14,
)
FILES = st.tuples(TEXT, st.sampled_from([b"", b"", b"end", b"end\r"])).map(
    lambda parts: b"".join(line + end for line, end in parts[0]) + parts[1]
)


@settings(max_examples=300)
@given(FILES, FILES, st.integers(0, 3))
def test_reads_back_what_it_made(before: bytes, after: bytes, context: int) -> None:
    text = make(before, after, "x.py", context)
    assert bool(text) == (before != after)
    if not text:
        return
    file = only(text)
    assert file.path == "x.py"
    old, new = split(before), split(after)
    for hunk in file.hunks:
        assert list(hunk.old) == old[hunk.start : hunk.start + len(hunk.old)]
    result, end = [], 0
    for hunk in file.hunks:
        result += old[end : hunk.start] + list(hunk.new)
        end = hunk.start + len(hunk.old)
    assert result + old[end:] == new


@settings(max_examples=300)
@given(FILES, FILES)
def test_goes_in_and_out_or_says_that_its_place_is_not_clear(before: bytes, after: bytes) -> None:
    text = make(before, after, "x.py")
    if not text:
        return
    for start, end, reverse in ((before, after, False), (after, before, True)):
        try:
            assert apply(only(text), start, reverse) == end
        except Conflict as conflict:
            assert "hunk" in conflict.message


def gnu(folder: Path, text: bytes, *words: str) -> int:
    """``patch -p1``, with no fuzz."""
    command = ["patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "--binary", "--batch", *words]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, check=False).returncode


def git(folder: Path, text: bytes, *words: str) -> int:
    """``git apply``, outside any repository."""
    command = ["git", "apply", "--whitespace=nowarn", "--unidiff-zero", *words, "-"]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, check=False).returncode


ORACLES = [
    pytest.param(gnu, marks=pytest.mark.skipif(not shutil.which("patch"), reason="no GNU patch")),
    pytest.param(git, marks=pytest.mark.skipif(not shutil.which("git"), reason="no git")),
]


@pytest.mark.parametrize("oracle", ORACLES)
@settings(max_examples=150)
@given(before=FILES.filter(bool), after=FILES.filter(bool))
def test_others_make_the_same_of_it(oracle: Callable[..., int], before: bytes, after: bytes, tmp_path: Path) -> None:
    text = make(before, after, "x.py")
    file = tmp_path / "x.py"
    file.write_bytes(before)
    if text:
        assert oracle(tmp_path, text) == 0
        assert file.read_bytes() == after
        assert oracle(tmp_path, text, "-R") == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("path", ["a file.py", "dir with space/x.py", "中文/分词器.py", "a-b.py"])
def test_others_find_the_file(oracle: Callable[..., int], path: str, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(BEFORE)
    text = make(BEFORE, AFTER, path)
    assert oracle(tmp_path, text) == 0
    assert file.read_bytes() == AFTER
    assert only(text).path == path


def test_moves_with_the_lines_above_but_never_by_guessing() -> None:
    file = only(make(BEFORE, AFTER, "x.py"))
    assert apply(file, b"user\n" + BEFORE) == b"user\n" + AFTER
    assert apply(file, b"user\n" + AFTER, reverse=True) == b"user\n" + BEFORE
    for data in (BEFORE.replace(b"line 4\n", b"user\n"), BEFORE + BEFORE, b"", AFTER):
        with pytest.raises(
            Conflict, match=r"x.py: hunk 1 of the patch does not stand there, or in more than one place"
        ):
            apply(file, data)


def test_a_patch_without_a_place_of_its_own_has_none() -> None:
    with pytest.raises(Conflict):
        apply(only(b"--- a/x.py\n+++ b/x.py\n@@ -0,0 +1 @@\n+a\n"), b"b\n")


GOOD = make(BEFORE, AFTER, "tokenizer.py")


def renamed(old: bytes, new: bytes = b"") -> bytes:
    return GOOD.replace(b"a/tokenizer.py", old).replace(b"b/tokenizer.py", new or old)


BAD = {
    "empty": b"",
    "no diff": b"hello\nworld\n",
    "ed script": b"3c\nline 3, ours\n.\nw\n!touch /tmp/x\n",
    "context diff": b"*** a/tokenizer.py\n--- b/tokenizer.py\n***************\n*** 1,2 ****\n! a\n  b\n--- 1,2 ----\n! A\n  b\n",
    "normal diff": b"4c4\n< line 3\n---\n> line 3, ours\n",
    "up and out": renamed(b"a/../../tokenizer.py"),
    "up and out on Windows": renamed(b"a\\..\\..\\tokenizer.py"),
    "up and out behind the prefix": renamed(b"a/x/..\\..\\..\\tokenizer.py"),
    "absolute": renamed(b"/etc/passwd"),
    "absolute behind the prefix": renamed(b"a//etc/passwd"),
    "a network share": renamed(b"\\\\host\\share\\x"),
    "a drive": renamed(b"C:\\Windows\\x"),
    "a drive with slashes": renamed(b"C:/Windows/x"),
    "no prefix": renamed(b"tokenizer.py"),
    "no name": renamed(b"a/"),
    "a folder": renamed(b"a/folder/"),
    "nul": renamed(b"a/x\0y"),
    "two names": renamed(b"a/tokenizer.py", b"b/other.py"),
    "creates": GOOD.replace(b"--- a/tokenizer.py", b"--- /dev/null"),
    "deletes": GOOD.replace(b"+++ b/tokenizer.py", b"+++ /dev/null"),
    "renames": b"diff --git a/x.py b/y.py\nsimilarity index 90%\nrename from x.py\nrename to y.py\n"
    + renamed(b"a/x.py", b"b/y.py"),
    "only renames": b"diff --git a/x.py b/y.py\nsimilarity index 100%\nrename from x.py\nrename to y.py\n",
    "git creates": b"diff --git a/x.py b/x.py\nnew file mode 100644\nindex 0000000..1\n--- /dev/null\n+++ b/x.py\n@@ -0,0 +1 @@\n+a\n",
    "git deletes": b"diff --git a/x.py b/x.py\ndeleted file mode 100644\nindex 1..0\n--- a/x.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n",
    "new mode": b"diff --git a/x.py b/x.py\nold mode 100644\nnew mode 100755\n",
    "symbolic link": b"diff --git a/x b/x\nnew file mode 120000\nindex 0..1\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/etc\n",
    "binary": b"diff --git a/x b/x\nindex 1..2 100644\nBinary files a/x and b/x differ\n",
    "git binary": b"diff --git a/x b/x\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQ\n",
    "the same file twice": GOOD + GOOD,
    "cut off in a hunk": GOOD[:-10],
    "cut off after a hunk's head": GOOD[: GOOD.index(b"@@ -14")] + b"@@ -14,6 +14,7 @@\n",
    "cut off after the names": b"--- a/x.py\n+++ b/x.py\n",
    "counts too small": GOOD.replace(b"@@ -1,7 +1,7 @@", b"@@ -1,3 +1,3 @@"),
    "counts too large": GOOD.replace(b"@@ -1,7 +1,7 @@", b"@@ -1,9 +1,9 @@"),
    "counts that leave something over": GOOD.replace(b"+14,7", b"+14,6"),
    "counts that leave the last lines over": GOOD.replace(b"@@ -14,6 +14,7 @@", b"@@ -14,5 +14,6 @@"),
    "a huge number": GOOD.replace(b"@@ -1,7", b"@@ -" + b"9" * 5000 + b",7"),
    "lines that are none": GOOD.replace(b"\n line 0", b"\n?line 0"),
    "text between hunks": GOOD.replace(b"@@ -14", b"+left over\n@@ -14"),
    "carriage return for line feed": GOOD.replace(b"\n", b"\r"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_takes_only_plain_and_safe_diffs(data: bytes) -> None:
    with pytest.raises(PatchError, match=NAME) as raised:
        parse(data, NAME)
    assert raised.value.exit_code == 1
    assert raised.value.next_step


def test_a_patch_with_other_line_endings_is_not_the_same_patch() -> None:
    file = only(GOOD.replace(b"\n", b"\r\n"))
    assert file.path == "tokenizer.py"
    with pytest.raises(Conflict):
        apply(file, BEFORE)
    assert apply(file, BEFORE.replace(b"\n", b"\r\n")) == AFTER.replace(b"\n", b"\r\n")


def test_time_stamps_and_headers_are_not_names() -> None:
    text = GOOD.replace(b"tokenizer.py\n", b"tokenizer.py\t2026-01-01 00:00:00 +0000\n")
    assert only(b"From: somebody\nSubject: --- is not a name\n\n---\n" + text).path == "tokenizer.py"
    assert only(b"diff --git a/tokenizer.py b/tokenizer.py\nindex 1..2 100644\n" + GOOD).path == "tokenizer.py"


PIECES = st.sampled_from(
    [
        *GOOD.splitlines(keepends=True),
        b"--- a/x\n",
        b"+++ b/x\n",
        b"--- ",
        b"+++ \n",
        b"--- /dev/null\n",
        b"@@ -1 +1 @@\n",
        b"@@ -0,0 +0,0 @@\n",
        b"@@ -1,2 +1 @@ def f()\n",
        b"\\ No newline at end of file\n",
        b"\\\n",
        b"\n",
        b"\r\n",
        b"-a\n",
        b"+a\n",
        b" a\n",
        b"+\xff",
        b"diff --git a/x b/x\n",
        b"new file mode 100644\n",
        b"deleted file mode 100644\n",
        b"old mode 1\n",
        b"GIT binary patch\n",
        b"Binary files a/x and b/x differ\n",
        b"Index: x\n",
        b"*** a/x\n",
        b'--- "a/x"\n',
        b"rename from x\n",
    ]
)


@settings(max_examples=1500)
@given(st.one_of(st.binary(max_size=80), st.lists(PIECES, max_size=9).map(b"".join)))
def test_any_bytes_are_a_safe_patch_or_an_error(data: bytes) -> None:
    try:
        files = parse(data, NAME)
    except ApplyOptError:
        return
    for file in files:
        assert file.path
        assert not file.path.startswith("/")
        assert ".." not in file.path.replace("\\", "/").split("/")
        assert file.hunks
        for line in (line for hunk in file.hunks for line in (*hunk.old, *hunk.new)):
            assert line.rstrip(b"\n") in data


def test_reads_the_header() -> None:
    text = b"Description: one\n two\n three\nOrigin: vendor, x\nX-Apply-Opt: a b\nnot a field\n more\n---\n--- a/Field: x\n"
    assert headers(text) == {"Description": "one\ntwo\nthree", "Origin": "vendor, x", "X-Apply-Opt": "a b"}
    assert headers(GOOD) == {}
    assert headers(b"\xff\xfe: 1\n") == {}
