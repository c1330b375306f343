"""``apply``: what lands, where, what stays as it was, and what is refused with nothing written."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import (
    EVERYTHING,
    LIGHT,
    QUICK,
    REFERENCE,
    ROOT,
    TF32,
    THREADS,
    Ran,
    commit_all,
    contents,
    copy,
    git,
    snapshot,
    traces,
)

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()
MANIFESTS = REFERENCE.parents[2] / "patches"


def tokenizer(folder: Path) -> bytes:
    return (folder / "tokenizer.py").read_bytes()


def whole_round(run: Run, folder: Path, *names: str) -> bytes:
    """Apply and revert; the tree has to be as it was. Gives what the file was in between."""
    before = contents(folder, ".git")
    assert run("apply", *(names or ("tokenizer_quick", *EVERYTHING)), cwd=folder).code == 0
    between = tokenizer(folder)
    assert between != before["tokenizer.py"]
    assert run("revert", "--all", cwd=folder).code == 0
    assert contents(folder, ".git") == before
    assert not traces(folder)
    return between


# What a file may look like. Every function makes the reference's file look so.

TABS = re.sub(rb"(?m)^(    )+", lambda found: b"\t" * (len(found[0]) // 4), PLAIN)
SHAPES = {
    "as it is": PLAIN,
    "crlf": PLAIN.replace(b"\n", b"\r\n"),
    "mixed endings": b"".join(
        line.rstrip(b"\n") + (b"\r\n", b"\n")[n % 3 > 0] for n, line in enumerate(PLAIN.splitlines(keepends=True))
    ),
    "bom": codecs.BOM_UTF8 + PLAIN,
    "bom and crlf": codecs.BOM_UTF8 + PLAIN.replace(b"\n", b"\r\n"),
    "tabs": TABS,
    "two spaces": re.sub(rb"(?m)^ +", lambda found: b" " * (len(found[0]) // 2), PLAIN),
    "latin-1": "# -*- coding: latin-1 -*-\n# ÿéà\n".encode("latin-1") + PLAIN + "# ÿ".encode("latin-1"),
    "gbk": "# -*- coding: gbk -*-\n# 分词器\n".encode("gbk") + PLAIN,
    "utf-8 cookie": "# -*- coding: utf-8 -*-\n# 分词器 🎵\n".encode() + PLAIN,
    "no final newline": PLAIN.rstrip(b"\n"),
    "form feeds": PLAIN.replace(b"\n    def ", b"\n\x0c\n    def "),
    "separators in strings": PLAIN.replace(b'"""Speech to', '"""\x1c\x85\u2028\x0b Speech to'.encode(), 1),
    "trailing space": re.sub(rb"(?m)(\S)$", rb"\1 \t", PLAIN),
    "blank lines at both ends": b"\n\n\n" + PLAIN + b"\n\n\n",
    "a shebang": b"#!/usr/bin/env python3\n" + PLAIN,
}


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES.keys())
def test_every_byte_outside_the_edit_stays_and_revert_gives_the_file_back(
    data: bytes, checkout: Path, run: Run
) -> None:
    (checkout / "tokenizer.py").write_bytes(data)
    between = whole_round(run, checkout)
    kept, put_in = data.splitlines(keepends=True), between.splitlines(keepends=True)
    gone = [line for line in kept if line not in put_in]
    assert len(gone) == 2, gone
    assert b"intra_op_num_threads" in gone[0] + gone[1]
    assert b"funasr_model_id" in gone[0] + gone[1]
    if data is not SHAPES["mixed endings"]:
        assert {line[-2:] == b"\r\n" for line in put_in} == {line[-2:] == b"\r\n" for line in kept}
    if data is TABS:
        assert b"\n    " not in between
        assert b"\n\t@_with_tf32_matmul\n" in between


@pytest.mark.parametrize("name", ["tokenizer_tf32", "tokenizer_ort_threads", "tokenizer_light_model"])
def test_each_one_alone(name: str, checkout: Path, run: Run) -> None:
    whole_round(run, checkout, name, *(EVERYTHING if name == LIGHT else EVERYTHING[:2]))


def test_the_name_alone_is_enough(checkout: Path, run: Run, tmp_path: Path) -> None:
    other = copy(REFERENCE, tmp_path / "other")
    assert run(THREADS, cwd=checkout).code == run("apply", THREADS, cwd=other).code == 0
    assert tokenizer(checkout) == tokenizer(other) != PLAIN


def test_says_what_it_did_and_how_to_take_it_out(checkout: Path, run: Run) -> None:
    ran = run("tokenizer_quick", cwd=checkout)
    assert ran.code == 0
    assert re.search(rf"{THREADS} +applied +line \d+", ran.out)
    assert re.search(rf"{TF32} +left out +changes results \(class lossy\)", ran.out)
    assert f"apply-opt {TF32} --allow lossy" in ran.out
    assert f"take out: apply-opt revert {THREADS}" in ran.out
    assert ran.err == ""


def test_again_changes_nothing(checkout: Path, run: Run) -> None:
    run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    before = snapshot(checkout)
    ran = run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    assert ran.code == 0
    assert ran.out.count("already applied   applied at 20") == 3
    assert snapshot(checkout) == before


def test_one_after_the_other_is_the_same_as_together(checkout: Path, run: Run, tmp_path: Path) -> None:
    other = copy(REFERENCE, tmp_path / "other")
    for name in QUICK:
        assert run(name, "--allow", "lossy", *(EVERYTHING[2:] if name == LIGHT else ()), cwd=other).code == 0
    run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    assert tokenizer(other) == tokenizer(checkout)


def test_a_name_twice_is_one(checkout: Path, run: Run) -> None:
    ran = run(THREADS, THREADS, "tokenizer_quick", cwd=checkout)
    assert ran.out.count(f"{THREADS} ") >= 1
    assert ran.out.count(" applied ") == 1


# Where it is found.


@pytest.mark.parametrize("below", [".", "funasr_detach", "funasr_detach/models/sanm"])
@pytest.mark.parametrize("kind", ["checkout", "git_checkout"])
def test_from_any_folder_in_it(below: str, kind: str, run: Run, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    assert run(THREADS, cwd=folder / below).code == 0
    assert b"_ort_intra_op_threads" in tokenizer(folder)
    assert '"pristine": false' in run("status", "--json", cwd=folder / below).out
    assert run("revert", cwd=folder / below).code == 0
    assert contents(folder, ".git") == contents(copy(REFERENCE, folder.parent / "again"))


def test_from_elsewhere_with_repo(checkout: Path, run: Run, tmp_path: Path) -> None:
    assert run("--repo", checkout, THREADS, cwd=tmp_path).code == 0
    assert run("status", "--repo", checkout / "funasr_detach", cwd=tmp_path).code == 0
    assert run("revert", "--repo", os.path.relpath(checkout, tmp_path), cwd=tmp_path).code == 0
    assert contents(checkout) == contents(copy(REFERENCE, tmp_path / "again"))


def test_in_a_worktree(git_checkout: Path, run: Run, tmp_path: Path) -> None:
    """Each has its own state; neither sees the other's, and git sees none."""
    tree = tmp_path / "tree"
    git("worktree", "add", "--quiet", str(tree), cwd=git_checkout)
    for folder in (tree, git_checkout):
        assert run(THREADS, cwd=folder).code == 0
    assert run("revert", "--all", cwd=git_checkout).code == 0
    assert git("status", "--porcelain", cwd=tree) == " M tokenizer.py\n"
    assert run("revert", "--all", cwd=tree).code == 0
    for folder in (tree, git_checkout):
        assert git("status", "--porcelain", "--ignored", cwd=folder) == ""


def test_in_a_folder_of_a_bigger_repository(run: Run, tmp_path: Path) -> None:
    folder = copy(REFERENCE, tmp_path / "big" / "third_party" / "step")
    (tmp_path / "big" / "main.py").write_text("x = 1\n")
    commit_all(tmp_path / "big")
    for where in (folder / "funasr_detach", tmp_path / "big"):
        assert run(THREADS, cwd=where).code == 0
        assert git("status", "--porcelain", cwd=folder) == " M third_party/step/tokenizer.py\n"
        assert run("revert", "--all", cwd=where).code == 0
        assert git("status", "--porcelain", "--ignored", cwd=folder) == ""


def test_moved_within_the_tree_it_is_searched_for(git_checkout: Path, run: Run) -> None:
    """One ledger, whether one stands above the file or beside it."""
    (git_checkout / "src" / "audio").mkdir(parents=True)
    (git_checkout / "tokenizer.py").rename(git_checkout / "src" / "audio" / "encode.py")
    before = contents(git_checkout)
    assert run(THREADS, cwd=git_checkout / "funasr_detach").code == 0
    assert b"_ort_intra_op_threads" in (git_checkout / "src" / "audio" / "encode.py").read_bytes()
    assert run(TF32, "--allow", "lossy", cwd=git_checkout / "src").code == 0
    assert re.findall(r"\.apply-opt$", "\n".join(snapshot(git_checkout)), re.M) == [".apply-opt"]
    assert run("revert", THREADS, cwd=git_checkout / "src" / "audio").code == 0
    assert run("revert", cwd=git_checkout).code == 0
    assert contents(git_checkout) == before


def test_applied_below_and_then_from_above(git_checkout: Path, run: Run) -> None:
    (git_checkout / "src").mkdir()
    (git_checkout / "tokenizer.py").rename(git_checkout / "src" / "tokenizer.py")
    before = contents(git_checkout)
    assert run(THREADS, cwd=git_checkout / "src").code == 0
    assert run(TF32, "--allow", "lossy", cwd=git_checkout).code == 0
    status = json.loads(run("status", "--json", cwd=git_checkout).out)
    assert {name: found["state"] for name, found in status["optimizations"].items() if name in QUICK[:2]} == {
        THREADS: "applied",
        TF32: "applied",
    }
    assert run("revert", "--all", cwd=git_checkout).code == 0
    assert contents(git_checkout) == before


def test_two_that_could_be_meant(checkout: Path, run: Run) -> None:
    for name in ("one.py", "two.py"):
        (checkout / name).write_bytes(PLAIN)
    (checkout / "tokenizer.py").unlink()
    before = snapshot(checkout)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 3
    assert "2 files" in ran.err and "one.py" in ran.err and "two.py" in ran.err and "--file one.py" in ran.err
    assert snapshot(checkout) == before
    assert run(THREADS, "--file", "two.py", cwd=checkout).code == 0
    assert (checkout / "one.py").read_bytes() == PLAIN
    assert (checkout / "two.py").read_bytes() != PLAIN
    assert run("revert", cwd=checkout).code == 0
    assert contents(checkout) == {name: data for name, (_, _, data) in before.items() if data is not None}


def test_file_below_and_absolute(checkout: Path, run: Run, tmp_path: Path) -> None:
    (checkout / "src").mkdir()
    (checkout / "tokenizer.py").rename(checkout / "src" / "other.py")
    (tmp_path / "link").symlink_to(checkout)
    for file in ("src/other.py", checkout / "src" / "other.py", tmp_path / "link" / "src" / "other.py"):
        assert run(THREADS, "--file", file, cwd=checkout).code == 0
        assert run("revert", cwd=checkout).code == 0
    assert (checkout / "src" / "other.py").read_bytes() == PLAIN


@pytest.mark.parametrize("target", ["src/real.py", "./src/../src/real.py"])
def test_a_link_in_the_tree_stays_a_link(target: str, git_checkout: Path, run: Run) -> None:
    (git_checkout / "src").mkdir()
    (git_checkout / "tokenizer.py").rename(git_checkout / "src" / "real.py")
    (git_checkout / "tokenizer.py").symlink_to(target)
    git("add", "--all", cwd=git_checkout)
    git("commit", "--quiet", "-m", "moved", cwd=git_checkout)
    exported = run("export", THREADS, cwd=git_checkout)
    assert "+++ b/src/real.py" in exported.out  # GNU patch follows no link
    assert run(THREADS, "--commit", cwd=git_checkout).code == 0
    assert os.readlink(git_checkout / "tokenizer.py") == target
    assert not (git_checkout / "src" / "real.py").is_symlink()
    assert git("show", "--stat", "--format=", cwd=git_checkout).count("|") == 1
    assert run("revert", "--commit", cwd=git_checkout / "src").code == 0
    assert os.readlink(git_checkout / "tokenizer.py") == target
    assert (git_checkout / "src" / "real.py").read_bytes() == PLAIN
    assert git("status", "--porcelain", "--ignored", cwd=git_checkout) == ""


def test_a_link_out_of_the_tree_is_refused(checkout: Path, run: Run, tmp_path: Path) -> None:
    (checkout / "tokenizer.py").rename(tmp_path / "outside.py")
    (checkout / "tokenizer.py").symlink_to(tmp_path / "outside.py")
    before = snapshot(tmp_path)
    for words in ((THREADS,), ("status",), (THREADS, "--file", "tokenizer.py"), (THREADS, "--file", "../outside.py")):
        ran = run(*words, cwd=checkout)
        assert ran.code == 3
        assert "leads out of the checkout" in ran.err
        assert "--repo" in ran.err
    assert snapshot(tmp_path) == before


def test_mode_and_owner_are_kept(checkout: Path, run: Run) -> None:
    file = checkout / "tokenizer.py"
    file.chmod(0o751)
    if os.getuid() == 0:
        os.chown(file, 12345, 23456)
    before = file.stat()
    for words in ((THREADS,), ("revert",)):
        assert run(*words, cwd=checkout).code == 0
        after = file.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_other_names_of_the_file_keep_what_they_had(checkout: Path, run: Run, tmp_path: Path) -> None:
    """Package managers link installed files to their cache, which is not ours to change."""
    os.link(checkout / "tokenizer.py", tmp_path / "cached.py")
    assert run(THREADS, cwd=checkout).code == 0
    assert (tmp_path / "cached.py").read_bytes() == PLAIN


# Bad input: a clear error, the right exit code, what to do next, and nothing changed.


def site_doubled(data: bytes) -> bytes:
    line = next(line for line in data.splitlines(keepends=True) if b"intra_op_num_threads" in line)
    return data.replace(line, line + line)


def only_helper(data: bytes) -> bytes:
    return data.replace(
        b"class StepAudioTokenizer",
        b"def _ort_intra_op_threads(providers):\n    return 1\n\n\nclass StepAudioTokenizer",
    )


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "not a target": (lambda data: b"print('hello')\n", "is not a checkout of"),
    "empty": (lambda data: b"", "is not a checkout of"),
    "site gone": (
        lambda data: data.replace(b"onnxruntime.InferenceSession", b"onnxruntime.Other"),
        "no onnxruntime.InferenceSession",
    ),
    "site doubled": (site_doubled, "is set in 2 places"),
    "partly applied": (only_helper, "partly applied"),
    "syntax error": (lambda data: data + b"def f(:\n", "is not valid Python"),
    "not utf-8": (lambda data: data + b"# \xe9\n", "cannot be decoded"),
    "nul": (lambda data: data + b"\x00\n", "is not valid Python"),
    "carriage returns alone": (lambda data: data.replace(b"\n", b"\r"), "LibCST does not give these lines back"),
    "too many brackets": (lambda data: data + b"x = " + b"(" * 500 + b")" * 500 + b"\n", "is not valid Python"),
    "a very long row of signs": (lambda data: data + b"x = " + b"-" * 20_000 + b"1\n", "is nested too deeply"),
    "deep in the way": (
        lambda data: data.replace(
            b"        session_option.intra",
            b"        x = " + b"+".join([b"y"] * 2000) + b"\n        session_option.intra",
        ),
        "nested too deeply",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_with_a_reason_and_a_next_step(
    change: Callable[[bytes], bytes], message: str, checkout: Path, run: Run
) -> None:
    (checkout / "tokenizer.py").write_bytes(change(PLAIN))
    before = snapshot(checkout)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 3
    assert ran.out == ""
    assert message in ran.err
    assert len(ran.err.splitlines()) >= 2
    assert snapshot(checkout) == before
    document = json.loads(run(THREADS, "--json", cwd=checkout).out)
    assert document["error"]["exit_code"] == 3
    assert document["error"]["next_step"]
    assert run("status", cwd=checkout).code in (0, 3)
    assert snapshot(checkout) == before


def test_a_file_that_is_gone_altogether(checkout: Path, run: Run) -> None:
    (checkout / "tokenizer.py").unlink()
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 3
    assert "is not a checkout of " in ran.err and "step_audio_editx" in ran.err
    assert "--repo DIR" in ran.err


def test_where_no_site_is_found_the_manual_edit_is_shown(checkout: Path, run: Run) -> None:
    (checkout / "tokenizer.py").write_bytes(PLAIN.replace(b"InferenceSession", b"Other"))
    ran = run(THREADS, cwd=checkout)
    assert "by hand:" in ran.err
    assert "session_option.intra_op_num_threads = <the number of cores" in ran.err


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown name": (("tokenizer_tf23",), "did you mean tokenizer_tf32?"),
    "nothing like it": (("xyzzy",), "apply-opt list --all shows what there is"),
    "unknown parameter": ((THREADS, "--set", "intraop=3"), "did you mean intra_op?"),
    "unknown parameter of a bundle": (("tokenizer_quick", "--set", "x=3"), "what can be set: "),
    "another's parameter": ((THREADS, "--set", "tokenizer_tf32.scope=process"), "no parameter called"),
    "wrong type": ((THREADS, "--set", "intra_op=many"), "takes a whole number from 1 or auto"),
    "too small": ((THREADS, "--set", "intra_op=0"), "takes a whole number from 1 or auto"),
    "far too large": ((THREADS, "--set", "intra_op=" + "9" * 5000), "takes a whole number from 1 or auto"),
    "negative": ((THREADS, "--set", "intra_op=-1"), "takes a whole number from 1 or auto"),
    "another script's digits": ((THREADS, "--set", "intra_op=４"), "takes a whole number from 1 or auto"),
    "not a choice": ((THREADS, "--set", "execution_mode=fast"), "takes auto or sequential or parallel"),
    "not a boolean": ((LIGHT, "--set", "unchecked=1"), "takes true or false"),
    "no text": ((LIGHT, "--set", "model_id= "), "takes a text"),
    "control characters": ((LIGHT, "--set", "model_id=a\nb"), "takes a text"),
    "undecodable": ((LIGHT, "--set", "model_id=\udcff"), "takes a text"),
    "no value": ((THREADS, "--set", "intra_op"), "a setting is key=value"),
    "no key": ((THREADS, "--set", "=3"), "a setting is key=value"),
    "twice": ((THREADS, "--set", "intra_op=2", "--set", "intra_op=3"), "is given twice"),
    "no such preflight folder": ((LIGHT, "--allow", "lossy", "--preflight", "nowhere"), "is not a folder"),
}


@pytest.mark.parametrize(("words", "message"), USAGE.values(), ids=USAGE.keys())
def test_wrong_words(words: tuple[str, ...], message: str, checkout: Path, run: Run) -> None:
    before = snapshot(checkout)
    ran = run("apply", *words, cwd=checkout)
    assert ran.code == 2
    assert message in ran.err
    assert len(ran.err.splitlines()) >= 2, "no next step"
    assert snapshot(checkout) == before
    document = json.loads(run("apply", *words, "--json", cwd=checkout).out)
    assert document["error"]["kind"] == "usage"


def test_a_parameter_of_one_of_a_bundle(checkout: Path, run: Run) -> None:
    ran = run("tokenizer_quick", "--set", "tokenizer_ort_threads.intra_op=3", cwd=checkout)
    assert ran.code == 0
    assert b"session_option.intra_op_num_threads = 3\n" in tokenizer(checkout)
    assert "warning: intra_op=3: " in ran.out


def test_other_values_than_those_applied(checkout: Path, run: Run) -> None:
    run(THREADS, "--set", "intra_op=3", cwd=checkout)
    before = contents(checkout)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 3
    assert "is applied with other values: execution_mode=auto inter_op=auto intra_op=3" in ran.err
    assert f"apply-opt revert {THREADS}" in ran.err
    assert contents(checkout) == before


def test_edited_since_then_again(checkout: Path, run: Run) -> None:
    run(THREADS, cwd=checkout)
    file = checkout / "tokenizer.py"
    file.write_bytes(file.read_bytes().replace(b"    return cores\n", b"    return cores + 1\n"))
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 3
    assert "its lines have been edited since" in ran.err
    assert f"apply-opt revert {THREADS}" in ran.err


@pytest.mark.parametrize("what", ["tokenizer.py", "."])
def test_read_only(what: str, checkout: Path, run: Run) -> None:
    path = checkout / what
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    before = contents(checkout)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 3
    assert "is read-only" in ran.err
    assert f"chmod u+w {checkout}" in ran.err
    assert contents(checkout) == before
    assert not traces(checkout)


def test_what_is_held_back_says_how_to_have_it(checkout: Path, run: Run) -> None:
    before = snapshot(checkout)
    ran = run(TF32, cwd=checkout)
    assert ran.code == 3
    assert "changes results (class lossy)" in ran.err
    assert f"apply-opt {TF32} --allow lossy" in ran.err
    assert f"apply-opt {TF32} --allow lossy" in run("apply", TF32, cwd=checkout).err
    assert f"apply-opt export {TF32} --allow lossy" in run("export", TF32, cwd=checkout).err
    ran = run(LIGHT, "--allow", "lossy", cwd=checkout)
    assert ran.code == 3
    assert "has to be checked first" in ran.err
    assert "--preflight DIR" in ran.err
    assert snapshot(checkout) == before


def test_a_failed_preflight_is_a_refusal(checkout: Path, run: Run, tmp_path: Path) -> None:
    before = snapshot(checkout)
    ran = run(LIGHT, "--allow", "lossy", "--preflight", tmp_path, cwd=checkout)
    assert ran.code == 3
    assert f"{LIGHT}: the model's folder is missing" in ran.err
    assert "download it there" in ran.err
    assert snapshot(checkout) == before


def test_strict_is_all_or_nothing(checkout: Path, run: Run) -> None:
    before = snapshot(checkout)
    ran = run("tokenizer_quick", "--strict", cwd=checkout)
    assert ran.code == 3
    assert ran.err.count("class lossy") == 2
    assert snapshot(checkout) == before
    assert run("tokenizer_quick", "--strict", *EVERYTHING, cwd=checkout).code == 0


def test_the_rest_of_a_bundle_lands_where_one_has_no_site(checkout: Path, run: Run) -> None:
    (checkout / "tokenizer.py").write_bytes(PLAIN.replace(b"onnxruntime.InferenceSession", b"onnxruntime.Other"))
    ran = run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    assert ran.code == 0
    assert re.search(rf"{THREADS} +no site +tokenizer.py: no onnxruntime.InferenceSession", ran.out)
    assert ran.out.count(" applied ") == 2


def test_what_the_author_has_done_is_not_needed(checkout: Path, run: Run) -> None:
    line = b"        session_option.intra_op_num_threads = 1\n"
    assert line in PLAIN
    (checkout / "tokenizer.py").write_bytes(PLAIN.replace(line, line.replace(b"= 1", b"= os.cpu_count()")))
    before = snapshot(checkout)
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 0
    assert "not needed" in ran.out and "os.cpu_count()" in ran.out
    assert snapshot(checkout) == before


def test_a_link_where_our_folder_would_be(checkout: Path, run: Run, tmp_path: Path) -> None:
    """What is behind it would be written to, and cleared away in the end."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("keep me")
    (checkout / ".apply-opt").symlink_to(precious)
    before = snapshot(tmp_path)
    for words in ((THREADS,), ("revert", "--all"), ("revert", "--from-backup"), ("status",)):
        ran = run(*words, cwd=checkout)
        assert ran.code == 3, words
        assert "is a link" in ran.err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["objects", "backup", "rescued"])
def test_a_link_inside_our_folder(name: str, checkout: Path, run: Run, tmp_path: Path) -> None:
    run(THREADS, cwd=checkout)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("keep me")
    state = checkout / ".apply-opt"
    if (state / name).exists():
        for file in (state / name).iterdir():
            (precious / file.name).write_bytes(file.read_bytes())
            file.unlink()
        (state / name).rmdir()
    (state / name).symlink_to(precious)
    for words in (("revert", "--all"), ("revert", "--from-backup")):
        assert run(*words, cwd=checkout).code == 3
    assert (precious / "data").read_text() == "keep me"


def test_a_file_where_our_folder_would_be(checkout: Path, run: Run) -> None:
    (checkout / ".apply-opt").write_text("mine")
    ran = run(THREADS, cwd=checkout)
    assert ran.code == 1
    assert ".apply-opt/ledger.json cannot be read: Not a directory" in ran.err
    assert "ls -ld" in ran.err
    assert (checkout / ".apply-opt").read_text() == "mine"
    assert tokenizer(checkout) == PLAIN


def test_no_such_folder(run: Run, tmp_path: Path) -> None:
    ran = run(THREADS, "--repo", "nowhere", cwd=tmp_path)
    assert ran.code == 3
    assert "nowhere is not a folder" in ran.err


# With git.


def dot_git(folder: Path) -> dict[str, bytes | str]:
    return contents(folder / ".git")


@pytest.mark.parametrize("applied", [(), ("tokenizer_quick", *EVERYTHING)])
def test_git_keeps_every_byte(applied: tuple[str, ...], git_checkout: Path, run: Run) -> None:
    exclude = "info/exclude"
    before = contents(git_checkout / ".git")
    own = before.pop(exclude)
    for words in (applied, ("status",), ("diff", "tokenizer_quick", *EVERYTHING), ("list",), ("revert", "--all")):
        if words:
            assert run(*words, cwd=git_checkout).code == 0
        now = contents(git_checkout / ".git")
        hidden = b"/.apply-opt/\n" if applied and words != ("revert", "--all") else b""
        assert now.pop(exclude) == own + hidden
        assert now == before
        expected = " M tokenizer.py\n" if applied and words != ("revert", "--all") else ""
        assert git("status", "--porcelain", cwd=git_checkout) == expected
    assert git("status", "--porcelain", "--ignored", cwd=git_checkout) == ""
    assert git("diff", cwd=git_checkout) == ""


def test_git_clean_and_add_leave_our_folder_out(git_checkout: Path, run: Run) -> None:
    run(THREADS, cwd=git_checkout)
    git("clean", "-f", "-d", "--quiet", cwd=git_checkout)
    git("add", "--all", cwd=git_checkout)
    assert git("diff", "--cached", "--name-only", cwd=git_checkout) == "tokenizer.py\n"
    assert run("revert", cwd=git_checkout).code == 0
    assert tokenizer(git_checkout) == PLAIN


def test_commit(git_checkout: Path, run: Run) -> None:
    (git_checkout / "utils.py").write_text("# staged, and not ours\n")
    git("add", "utils.py", cwd=git_checkout)
    (git_checkout / "mel.py").write_text("# not staged\n")
    for words, subject in (((THREADS,), f"Apply {THREADS}"), (("revert",), f"Revert {THREADS}")):
        ran = run(*words, "--commit", "--json", cwd=git_checkout)
        assert ran.code == 0
        assert json.loads(ran.out)["commit"] == git("rev-parse", "HEAD", cwd=git_checkout).strip()
        assert git("show", "--format=%s", "--name-only", cwd=git_checkout).split("\n") == [
            subject,
            "",
            "tokenizer.py",
            "",
        ]
        assert git("status", "--porcelain", cwd=git_checkout) == " M mel.py\nM  utils.py\n"
    assert git("diff", "HEAD~2", "--stat", "--", "tokenizer.py", cwd=git_checkout) == ""
    assert not traces(git_checkout)


def hook(folder: Path, text: str) -> None:
    path = folder / ".git" / "hooks" / "pre-commit"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


FAILURES = {
    "no name": lambda folder: (
        git("config", "--unset", "user.name", cwd=folder) + git("config", "user.useConfigOnly", "true", cwd=folder)
    ),
    "a hook": lambda folder: hook(folder, "echo no, thanks >&2; exit 1"),
    "a hook that formats": lambda folder: hook(folder, "sed -i 's/ = /=/' tokenizer.py; echo no, thanks; exit 1"),
}


@pytest.mark.parametrize("spoil", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("first", [False, True])
def test_a_commit_that_fails_is_taken_back(
    spoil: Callable[[Path], object], first: bool, git_checkout: Path, run: Run
) -> None:
    (git_checkout / "utils.py").write_text("# staged, and not ours\n")
    git("add", "utils.py", cwd=git_checkout)
    if first:
        assert run(TF32, "--allow", "lossy", "--commit", cwd=git_checkout).code == 0
    spoil(git_checkout)
    before = contents(git_checkout, ".git")
    head = git("rev-parse", "HEAD", cwd=git_checkout)
    words = ("revert", TF32) if first else (THREADS,)
    for attempt in (words, (THREADS,)):
        ran = run(*attempt, "--commit", cwd=git_checkout)
        assert ran.code == 1
        assert "git did not commit: " in ran.err
        assert "leave --commit out" in ran.err
        assert contents(git_checkout, ".git", "rescued") == before
        assert git("rev-parse", "HEAD", cwd=git_checkout) == head
        assert git("diff", "--cached", "--name-only", cwd=git_checkout) == "utils.py\n"


def test_interrupted_while_git_commits(git_checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("apply_opt.io.git.commit", interrupt)
    before = contents(git_checkout)
    assert run(THREADS, "--commit", cwd=git_checkout).code == 130
    assert contents(git_checkout) == before


NOT_CLEAN = {
    "edited": lambda folder: (folder / "tokenizer.py").write_bytes(PLAIN + b"# mine\n"),
    "staged": lambda folder: [
        (folder / "tokenizer.py").write_bytes(PLAIN + b"#\n"),
        git("add", "tokenizer.py", cwd=folder),
    ],
    "not tracked": lambda folder: [
        git("rm", "--cached", "-q", "tokenizer.py", cwd=folder),
        git("commit", "-qm", "x", cwd=folder),
    ],
    "ignored": lambda folder: [
        git("rm", "--cached", "-q", "tokenizer.py", cwd=folder),
        (folder / ".gitignore").write_text("tokenizer.py\n"),
        git("add", ".gitignore", cwd=folder),
        git("commit", "-qm", "x", cwd=folder),
    ],
}


@pytest.mark.parametrize("spoil", NOT_CLEAN.values(), ids=NOT_CLEAN.keys())
def test_no_commit_of_what_is_not_ours(spoil: Callable[[Path], object], git_checkout: Path, run: Run) -> None:
    spoil(git_checkout)
    before = snapshot(git_checkout)
    ran = run(THREADS, "--commit", cwd=git_checkout)
    assert ran.code == 3
    assert "tokenizer.py has changes that are not committed" in ran.err
    assert "leave --commit out" in ran.err
    assert snapshot(git_checkout) == before


def test_no_commit_without_git(checkout: Path, run: Run) -> None:
    before = snapshot(checkout)
    ran = run(THREADS, "--commit", cwd=checkout)
    assert ran.code == 1
    assert "is not in a git repository with a commit" in ran.err
    assert snapshot(checkout) == before
    commit_all(checkout)
    git("update-ref", "-d", "HEAD", cwd=checkout)
    assert run(THREADS, "--commit", cwd=checkout).code == 1


def test_already_applied_needs_no_commit(git_checkout: Path, run: Run) -> None:
    run(THREADS, cwd=git_checkout)
    head = git("rev-parse", "HEAD", cwd=git_checkout)
    assert run(THREADS, "--commit", cwd=git_checkout).code == 0
    assert git("rev-parse", "HEAD", cwd=git_checkout) == head


def test_json_says_all_that_happened(checkout: Path, run: Run) -> None:
    document = json.loads(run("tokenizer_quick", "--json", cwd=checkout).out)
    assert document["checkout"] == str(checkout)
    assert document["file"] == "tokenizer.py"
    assert {o["name"]: o["outcome"] for o in document["outcomes"]} == {
        TF32: "left_out",
        THREADS: "applied",
        LIGHT: "left_out",
    }
    assert document["sha256"]["before"] != document["sha256"]["after"]
    assert document["commit"] is None


def test_what_is_put_on_top_of_another_one(tmp_path: Path, run: Run) -> None:
    """Alone it has no place; the next step names both."""
    tree = copy(ROOT / "target_repos" / "time_llm" / "reference", tmp_path / "tree")
    ran = run("timellm_sdpa", cwd=tree)
    assert ran.code == 3 and "\n  together: apply-opt timellm_outputs_off timellm_sdpa\n" in ran.err
    assert run("timellm_outputs_off", "timellm_sdpa", cwd=tree).code == 0
