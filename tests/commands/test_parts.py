"""Optimizations of other files than the main one: planned, written, shown, taken over and taken out together with its."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ran, commit_all, contents, git, patched, snapshot, write
from two_files import BOTH, FLUSH, MAIN, PLAIN, READ, SORT, WRITE, WRITER, changed, tree

from apply_opt.io import catalog, files, targets
from apply_opt.io.parts import Parts
from apply_opt.model.digest import sha256

Run = Callable[..., Ran]
needs_patch = pytest.mark.skipif(not shutil.which("patch"), reason="no GNU patch")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="hooks are shell scripts")
FAST = {MAIN: changed(MAIN, READ), WRITER: changed(WRITER, WRITE)}
MARK = b"# the user's\n"


@pytest.fixture
def copying(copy_pack: Path, tmp_path: Path) -> Path:
    """A checkout of the target of two files."""
    return tree(tmp_path / "copying")


@pytest.fixture
def committed(copying: Path) -> Path:
    """The same as a git repository."""
    commit_all(copying)
    return copying


def read(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder, ".git", ".apply-opt").items() if isinstance(data, bytes)}


def document(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.out)
    return found


def states(run: Run, folder: Path, *words: str) -> dict[str, str]:
    found = document(run("status", "--json", *words, cwd=folder))["optimizations"]
    return {name: one["state"] for name, one in found.items()}


# One plan over both files


def test_a_bundle_lands_in_both_files(copying: Path, run: Run) -> None:
    ran = run(BOTH, cwd=copying)
    assert ran.code == 0
    assert f"{READ}   applied           line 5\n{WRITE}  applied           lib/writer.py: line 4\n" in ran.out
    assert f"{MAIN}, {WRITER} changed in {copying}" in ran.out
    assert read(copying) == FAST
    assert run("revert", "--all", cwd=copying).code == 0
    assert contents(copying) == PLAIN


def test_the_document_names_all_files(copying: Path, run: Run) -> None:
    found = document(run(BOTH, "--json", cwd=copying))
    assert found["file"] == MAIN
    hashes = {path: {"before": sha256(PLAIN[path]), "after": sha256(FAST[path])} for path in PLAIN}
    assert found["files"] == hashes
    assert found["sha256"] == hashes[MAIN]
    assert [outcome["file"] for outcome in found["outcomes"]] == [MAIN, WRITER]


def test_the_document_of_one_that_is_in_another_file(copying: Path, run: Run) -> None:
    found = document(run(WRITE, "--json", cwd=copying))
    assert found["file"] == MAIN
    assert list(found["files"]) == [WRITER]
    assert found["sha256"] == {"before": sha256(PLAIN[MAIN]), "after": sha256(PLAIN[MAIN])}
    assert read(copying) == {MAIN: PLAIN[MAIN], WRITER: FAST[WRITER]}
    again = document(run(WRITE, "--json", cwd=copying))
    assert again["files"] == {}
    assert [(o["outcome"], o["file"]) for o in again["outcomes"]] == [("already", WRITER)]


def test_diff_and_list_show_both(copying: Path, run: Run) -> None:
    before = snapshot(copying)
    ran = run("diff", BOTH, cwd=copying)
    assert ran.code == 0
    assert ran.out.index(f"+++ b/{MAIN}") < ran.out.index(f"+++ b/{WRITER}")
    found = document(run("diff", BOTH, "--json", cwd=copying))
    assert (found["file"], list(found["files"])) == (MAIN, [MAIN, WRITER])
    rows = {row["name"]: row for row in document(run("list", "--json", cwd=copying))["optimizations"]}
    assert [(rows[n]["state"], rows[n]["file"]) for n in (READ, WRITE)] == [
        ("applicable", MAIN),
        ("applicable", WRITER),
    ]
    assert snapshot(copying) == before


def test_show_says_which_file(copying: Path, run: Run) -> None:
    assert f"target copy, class exact, in {WRITER} (part writer)" in run("show", WRITE, cwd=copying).out
    assert document(run("show", WRITE, "--json", cwd=copying))["part"] == "writer"
    assert document(run("show", READ, "--json", cwd=copying))["part"] is None


def test_two_in_one_file_that_is_not_the_main_one(copying: Path, run: Run) -> None:
    assert run(SORT, WRITE, cwd=copying).code == 0
    assert read(copying) == {MAIN: PLAIN[MAIN], WRITER: changed(WRITER, SORT, WRITE)}


def test_what_one_needs_may_be_in_another_file(copying: Path, run: Run) -> None:
    ran = run(FLUSH, cwd=copying)
    assert ran.code == 3
    assert f"{FLUSH}: needs {READ}" in ran.err
    assert run(READ, cwd=copying).code == 0
    assert run(FLUSH, cwd=copying).code == 0
    ran = run(SORT, cwd=copying)
    assert ran.code == 3
    assert f"{SORT}: does not go together with {READ}" in ran.err


def test_what_does_not_work_any_more_is_named(copying: Path, run: Run) -> None:
    assert run(READ, FLUSH, cwd=copying).code == 0
    ran = run("revert", READ, cwd=copying)
    assert ran.code == 0
    assert f"{FLUSH} does not work without {READ}\ntake it out too: apply-opt revert {FLUSH}\n" in ran.out
    assert run(READ, cwd=copying).code == 0
    found = document(run("revert", READ, "--json", cwd=copying))
    assert (found["still_applied"], found["broken"]) == ([FLUSH], [FLUSH])
    assert "does not work" not in run("revert", FLUSH, cwd=copying).out


def test_what_one_conflicts_with_may_be_in_another_file(copying: Path, run: Run) -> None:
    assert run(SORT, cwd=copying).code == 0
    ran = run(READ, cwd=copying)
    assert ran.code == 3
    assert f"{READ}: does not go together with {SORT}" in ran.err


def test_a_fork_with_everything_in_one_file(copying: Path, run: Run) -> None:
    tree(copying, {MAIN: PLAIN[WRITER] + b"\n\n" + PLAIN[MAIN].replace(b"from lib.writer import write_all\n\n\n", b"")})
    before = read(copying)
    assert run(BOTH, cwd=copying).code == 0
    assert read(copying) == {MAIN: changed(MAIN, READ, WRITE, data=before[MAIN])}
    assert document(run("status", "--json", cwd=copying))["files"] == [MAIN]
    assert run("revert", READ, cwd=copying).code == 0
    assert run("revert", cwd=copying).code == 0
    assert contents(copying) == before


def test_the_main_file_is_the_part_although_another_file_could_be(copying: Path, run: Run) -> None:
    """Two whole programs, each in a file of its own: one is named, and the other has no say in it."""
    text = PLAIN[WRITER] + b"\n\n" + PLAIN[MAIN].replace(b"from lib.writer import write_all\n\n\n", b"")
    tree(copying, {MAIN: text, "another.py": text})
    assert run(BOTH, "--file", MAIN, cwd=copying).code == 0
    assert read(copying) == {MAIN: changed(MAIN, READ, WRITE, data=text), "another.py": text}


def test_a_file_changed_between_plan_and_lock(copying: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from apply_opt.io import transaction

    real = transaction.locked

    def locked(root: str, recovering: bool = True) -> Any:
        (copying / WRITER).write_bytes(MARK + PLAIN[WRITER])
        return real(root, recovering)

    monkeypatch.setattr(transaction, "locked", locked)
    assert run(BOTH, cwd=copying).code == 0
    assert read(copying) == {MAIN: FAST[MAIN], WRITER: MARK + FAST[WRITER]}


@pytest.mark.parametrize("path", [MAIN, WRITER])
def test_each_file_keeps_its_line_endings(path: str, copying: Path, run: Run) -> None:
    def windows(data: bytes) -> bytes:
        return data.replace(b"\n", b"\r\n")

    (copying / path).write_bytes(windows(PLAIN[path]))
    assert run(BOTH, cwd=copying).code == 0
    assert read(copying) == {**FAST, path: windows(FAST[path])}
    (copying / path).write_bytes(windows(FAST[path]) + MARK)
    assert run("revert", "--all", cwd=copying).code == 0
    assert read(copying) == {**PLAIN, path: windows(PLAIN[path]) + MARK}


@pytest.mark.parametrize(("bad", "good"), [(READ, WRITE), (WRITE, READ)])
def test_the_one_at_fault_is_found(bad: str, good: str, copying: Path, copy_pack: Path, run: Run) -> None:
    """Its result is not what it looks for itself; what the other makes of its file is written."""
    codemod = copy_pack / "codemods" / f"{bad}.py"
    codemod.write_text(
        codemod.read_text() + "good = edit\ndef edit(*a):\n    return [e._replace(text='') for e in good(*a)]\n"
    )
    ran = run(BOTH, cwd=copying)
    assert ran.code == 0
    assert {o["name"]: o["outcome"] for o in document(run("diff", BOTH, "--json", cwd=copying))["outcomes"]}[
        bad
    ] == "refused"
    path = MAIN if good == READ else WRITER
    assert read(copying) == {**PLAIN, path: FAST[path]}


# A file that is not there, or not certain


def test_a_missing_file_is_a_refusal_of_what_needs_it(copying: Path, run: Run) -> None:
    (copying / WRITER).unlink()
    ran = run(BOTH, cwd=copying)
    assert ran.code == 0
    why = f"{copying} does not hold the part writer of copy: no file has def write_all( and any of file.write(, "
    assert why in ran.out
    assert f"by hand: {WRITE}" in ran.out
    assert read(copying) == {MAIN: FAST[MAIN]}
    assert run("revert", cwd=copying).code == 0
    before = snapshot(copying)
    for words in ((WRITE,), (BOTH, "--strict")):
        ran = run(*words, cwd=copying)
        assert ran.code == 3
        assert why in ran.err
    rows = {row["name"]: row["state"] for row in document(run("list", "--json", cwd=copying))["optimizations"]}
    assert (rows[READ], rows[WRITE]) == ("applicable", "no site")
    assert document(run(WRITE, "--json", cwd=copying))["error"]["kind"] == "no_site"
    assert snapshot(copying) == before


def test_of_two_files_none_is_chosen(copying: Path, run: Run) -> None:
    (copying / WRITER).unlink()
    write(copying, {"one.py": PLAIN[WRITER], "two.py": PLAIN[WRITER]})
    ran = run(WRITE, cwd=copying)
    assert ran.code == 3
    assert "2 files in" in ran.err
    assert "could be the part writer of copy:\n  one.py\n  two.py" in ran.err
    assert "name one: --file writer=one.py" in ran.err
    assert run(WRITE, "--file", "writer=two.py", cwd=copying).code == 0
    assert read(copying) == {MAIN: PLAIN[MAIN], "one.py": PLAIN[WRITER], "two.py": FAST[WRITER]}
    assert run("revert", cwd=copying).code == 0
    assert (copying / "two.py").read_bytes() == PLAIN[WRITER]


def test_a_file_that_is_only_found_by_its_markers(copying: Path, run: Run) -> None:
    (copying / WRITER).rename(copying / "other.py")
    assert run(BOTH, cwd=copying).code == 0
    assert read(copying) == {MAIN: FAST[MAIN], "other.py": FAST[WRITER]}
    assert states(run, copying)[WRITE] == "applied"


def test_a_folder_below_with_both(copying: Path, run: Run) -> None:
    """The usual places count from the main file's folder: the copy at the root is another tree's."""
    write(copying, {f"fork/{path}": data for path, data in PLAIN.items()})
    (copying / MAIN).unlink()
    assert run(BOTH, "--repo", copying, cwd=copying.parent).code == 0
    assert read(copying) == {WRITER: PLAIN[WRITER], **{f"fork/{path}": data for path, data in FAST.items()}}


def test_a_main_file_in_a_folder_below(copying: Path, run: Run) -> None:
    write(copying, {f"src/{MAIN}": PLAIN[MAIN]})
    (copying / MAIN).unlink()
    assert run(BOTH, cwd=copying).code == 0
    assert read(copying) == {f"src/{MAIN}": FAST[MAIN], WRITER: FAST[WRITER]}
    assert states(run, copying)[FLUSH] == "not applied"


def test_the_nearest_folder_above_with_it(copying: Path, run: Run) -> None:
    write(copying, {f"a/b/{MAIN}": PLAIN[MAIN], f"a/{WRITER}": PLAIN[WRITER]})
    assert run(WRITE, "--file", f"a/b/{MAIN}", cwd=copying).code == 0
    assert read(copying) == {**PLAIN, f"a/b/{MAIN}": PLAIN[MAIN], f"a/{WRITER}": FAST[WRITER]}


def test_what_lacks_the_markers_is_not_it(copying: Path, run: Run) -> None:
    (copying / WRITER).write_bytes(PLAIN[WRITER].replace(b"file.write(", b"other.write("))
    before = snapshot(copying)
    assert run(WRITE, cwd=copying).code == 3
    assert snapshot(copying) == before


def test_a_link_inside_the_checkout_is_followed(copying: Path, run: Run) -> None:
    (copying / WRITER).rename(copying / "real.py")
    (copying / WRITER).symlink_to("../real.py")
    assert document(run(BOTH, "--json", cwd=copying))["files"].keys() == {MAIN, "real.py"}
    assert (copying / "real.py").read_bytes() == FAST[WRITER]
    assert os.readlink(copying / WRITER) == "../real.py"


@pytest.mark.parametrize("words", [(), ("--file", f"writer={WRITER}"), ("--file", "writer=../outside.py")])
def test_a_link_out_of_the_checkout_is_not(words: tuple[str, ...], copying: Path, run: Run) -> None:
    outside = copying.parent / "outside.py"
    (copying / WRITER).rename(outside)
    (copying / WRITER).symlink_to(outside)
    ran = run(WRITE, *words, cwd=copying)
    assert ran.code == 3
    assert "leads out of the checkout" in ran.err
    assert run(BOTH, *words, cwd=copying).code == 0
    assert (copying / MAIN).read_bytes() == FAST[MAIN]
    assert outside.read_bytes() == PLAIN[WRITER]
    assert run("status", *words, cwd=copying).code == 0


def test_another_repository_inside_is_left_alone(committed: Path, run: Run) -> None:
    shutil.copytree(committed / ".git", committed / "lib" / ".git")
    ran = run(WRITE, cwd=committed)
    assert ran.code == 3
    assert "does not hold the part writer" in ran.err
    assert read(committed) == PLAIN
    assert run(WRITE, "--file", f"writer={WRITER}", cwd=committed).code == 0
    assert read(committed)[WRITER] == FAST[WRITER]


def test_a_file_that_cannot_be_read(copying: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_SIZE", 2**15)
    (copying / WRITER).write_bytes(PLAIN[WRITER] + b"#" * 2**15)
    ran = run(BOTH, cwd=copying)
    assert ran.code == 0
    assert f"{copying / WRITER} cannot be read: it is larger than" in ran.out
    assert (copying / MAIN).read_bytes() == FAST[MAIN]
    assert states(run, copying)[WRITE] == "cannot be told"


def test_a_file_that_is_no_python(copying: Path, run: Run) -> None:
    (copying / WRITER).write_bytes(PLAIN[WRITER] + b"(")
    ran = run(BOTH, cwd=copying)
    assert ran.code == 0
    assert f"{WRITER}:6 is not valid Python" in ran.out
    assert read(copying)[MAIN] == FAST[MAIN]
    (copying / MAIN).write_bytes(PLAIN[MAIN] + b"(")
    (copying / WRITER).write_bytes(PLAIN[WRITER])
    shutil.rmtree(copying / ".apply-opt")
    assert run(WRITE, cwd=copying).code == 0, "that the main file cannot be read does not matter to it"


# --file


@pytest.mark.parametrize("form", ["writer=odd/w.py", "writer=./odd/../odd/w.py", "writer={}/odd/w.py"])
def test_a_part_can_be_named(form: str, copying: Path, run: Run) -> None:
    write(copying, {"odd/w.py": PLAIN[WRITER]})
    ran = run(BOTH, "--file", form.format(copying), "--file", MAIN, cwd=copying)
    assert ran.code == 0, ran
    assert read(copying) == {**FAST, "odd/w.py": FAST[WRITER], WRITER: PLAIN[WRITER]}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--file", "writer=nothing.py"), 3, "there is no file "),
        (("--file", "writer="), 3, "there is no file "),
        (("--file", f"writer={MAIN}"), 3, "is not the part writer of copy: it lacks def write_all("),
        (("--file", "writer=a.py", "--file", "writer=b.py"), 2, "--file names one file twice"),
        (("--file", MAIN, "--file", MAIN), 2, "--file names one file twice"),
        (("--file", f"writr={WRITER}"), 3, f"there is no file writr={WRITER}"),
    ],
)
def test_a_part_that_is_named_wrongly(words: tuple[str, ...], code: int, message: str, copying: Path, run: Run) -> None:
    before = snapshot(copying)
    ran = run(WRITE, *words, cwd=copying)
    assert ran.code == code
    assert message in ran.err
    assert snapshot(copying) == before
    if "writr" in words[1]:
        assert "(another part of it: writer=PATH)" in ran.err


def test_a_path_may_hold_the_sign(copying: Path, run: Run) -> None:
    write(copying, {f"a=b/{path}": data for path, data in PLAIN.items()})
    assert run(BOTH, "--file", f"a=b/{MAIN}", cwd=copying).code == 0
    assert read(copying) == {**PLAIN, **{f"a=b/{path}": data for path, data in FAST.items()}}


def test_a_part_of_another_target(copying: Path, checkout: Path, run: Run) -> None:
    ran = run("list", "--file", "writer=tokenizer.py", "--repo", checkout, cwd=copying)
    assert ran.code == 2
    assert "step_audio_editx has no part called writer" in ran.err


# What is not asked for is not looked for


@pytest.mark.parametrize("words", [(READ,), ("diff", READ), ("status",), ("revert",)], ids=" ".join)
def test_no_tree_is_walked_for_a_file_that_is_not_needed(
    words: tuple[str, ...], copying: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copying / WRITER).unlink()

    def walk(*arguments: object) -> None:
        raise AssertionError("the whole tree is walked")

    monkeypatch.setattr(files, "walk", walk)
    if words != ("status",):
        monkeypatch.setattr(Parts, "file", lambda self, name: MAIN if not name else walk())
    assert run(*words, cwd=copying).code == 0


def test_list_looks_once(copying: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (copying / WRITER).unlink()
    real, walked = files.walk, []

    def walk(root: str, skip: frozenset[str]) -> Any:
        walked.append(root)
        return real(root, skip)

    monkeypatch.setattr(files, "walk", walk)
    found = document(run("list", "--json", cwd=copying))["optimizations"]
    assert {row["state"] for row in found if row["name"] in (WRITE, FLUSH, SORT)} == {"no site"}
    assert walked == [str(copying)]


# What is known of the files


def test_status_of_both_files(copying: Path, run: Run) -> None:
    assert states(run, copying) == dict.fromkeys((READ, WRITE, FLUSH, SORT), "not applied")
    write(copying, dict(FAST))
    assert states(run, copying) == {
        READ: "applied by hand",
        WRITE: "applied by hand",
        FLUSH: "not applied",
        SORT: "not applied",
    }
    tree(copying)
    run(BOTH, cwd=copying)
    found = document(run("status", "--json", cwd=copying))
    assert found["files"] == [MAIN, WRITER]
    assert states(run, copying)[WRITE] == "applied"
    (copying / WRITER).write_bytes(MARK + FAST[WRITER])
    assert states(run, copying)[WRITE] == "applied, and edited since"
    assert states(run, copying)[READ] == "applied"


def test_status_of_a_part_that_is_elsewhere(copying: Path, run: Run) -> None:
    (copying / WRITER).rename(copying / "other.py")
    ran = run("status", cwd=copying)
    assert "pristine" in ran.out
    assert f"there is no {WRITER} (apply-opt list looks for it elsewhere)" in ran.out
    assert states(run, copying, "--file", "writer=other.py")[WRITE] == "not applied"
    assert "it lacks def write_all(" in run("status", "--file", f"writer={MAIN}", cwd=copying).out


def test_a_result_that_is_not_the_recorded_one(copying: Path, copy_pack: Path, run: Run) -> None:
    know(copy_pack, {WRITER: {WRITE: b"another"}})
    before = snapshot(copying)
    ran = run(BOTH, cwd=copying)
    assert ran.code == 3
    assert f"them/copy {WRITER}: the result is not the recorded one" in ran.err
    assert snapshot(copying) == before
    know(copy_pack, {MAIN: {READ: FAST[MAIN]}, WRITER: {WRITE: FAST[WRITER]}})
    assert run(BOTH, cwd=copying).code == 0


def test_status_knows_both_by_their_hashes(
    copying: Path, copy_pack: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing but hashes: no manifest is parsed, and no Python file."""
    know(copy_pack, {MAIN: {READ: FAST[MAIN]}, WRITER: {WRITE: FAST[WRITER], SORT: b"s", f"{WRITE}+{SORT}": b"ws"}})
    assert states(run, copying) == dict.fromkeys((READ, WRITE, SORT), "not applied")
    run(READ, cwd=copying)
    with monkeypatch.context() as nothing:
        nothing.setattr(targets, "read_toml", None)
        assert states(run, copying) == {READ: "applied", WRITE: "not applied", SORT: "not applied"}
        (copying / WRITER).write_bytes(FAST[WRITER])
        assert states(run, copying) == {READ: "applied", WRITE: "applied by hand", SORT: "not applied"}
    (copying / WRITER).write_bytes(MARK + FAST[WRITER])
    found = {READ: "applied", WRITE: "applied by hand", FLUSH: "not applied", SORT: "not applied"}
    assert states(run, copying) == found, "by their structure"
    (copying / WRITER).write_bytes(PLAIN[WRITER])
    run(WRITE, cwd=copying)
    with monkeypatch.context() as nothing:
        nothing.setattr(targets, "read_toml", None)
        assert states(run, copying) == {READ: "applied", WRITE: "applied", SORT: "not applied"}
    (copying / WRITER).write_bytes(MARK + FAST[WRITER])
    found = {READ: "applied", WRITE: "applied, and edited since", FLUSH: "not applied", SORT: "not applied"}
    assert states(run, copying) == found


def know(pack: Path, after: dict[str, dict[str, bytes]]) -> None:
    """Write down files that are known upstream, with what optimizations make of them."""
    path = pack / "target_repos" / "copy" / "target.toml"
    text = path.read_text().partition("\n[[revision]]\n")[0]
    for name, results in after.items():
        text += f'\n[[revision]]\nrepository = "them/copy"\ncommits = ["1"]\npath = "{name}"\n'
        text += f'sha256 = "{sha256(PLAIN[name])}"\n[revision.after]\n'
        text += "".join(f'"{key}" = "{sha256(data)}"\n' for key, data in results.items())
    path.write_text(text)
    catalog.load.cache_clear()


# Patches


@needs_patch
@pytest.mark.parametrize("program", ["patch", "git apply"])
def test_a_patch_of_both_files(program: str, committed: Path, run: Run) -> None:
    exported = run("export", BOTH, cwd=committed)
    assert exported.code == 0
    assert f"X-Apply-Opt: {READ} {WRITE}\n" in exported.out
    hashes = " ".join(sha256(PLAIN[path]) for path in (MAIN, WRITER))
    assert f"X-Sha256-Before: {hashes}\n" in exported.out
    put_in(program, committed, exported.raw)
    assert read(committed) == FAST
    assert run("adopt", cwd=committed).code == 0
    assert states(run, committed) == {READ: "applied", WRITE: "applied", FLUSH: "not applied", SORT: "not applied"}
    again = run("export", BOTH, cwd=committed)
    assert again.raw.partition(b"\n---\n")[2] == exported.raw.partition(b"\n---\n")[2]
    assert run("revert", READ, cwd=committed).code == 0
    assert run(READ, cwd=committed).code == 0, "now it is the last one in the ledger"
    assert run("export", BOTH, cwd=committed).raw == again.raw
    assert run("revert", WRITE, cwd=committed).code == 0
    assert run("revert", "--all", cwd=committed).code == 0
    assert git("status", "--porcelain", cwd=committed) == ""


def put_in(program: str, folder: Path, data: bytes) -> None:
    if program == "patch":
        assert patched(folder, data).returncode == 0
    else:
        (folder.parent / "x.patch").write_bytes(data)
        git("apply", "../x.patch", cwd=folder)


@needs_patch
def test_adopt_beside_the_users_own_edits(copying: Path, run: Run) -> None:
    (copying / WRITER).write_bytes(PLAIN[WRITER].replace(b"\n", b"\r\n"))
    exported = run("export", BOTH, cwd=copying)
    (copying.parent / "x.patch").write_bytes(exported.raw)
    assert run(BOTH, cwd=copying).code == 0
    shutil.rmtree(copying / ".apply-opt")  # as `git apply` or `patch --binary` leaves it
    for path in PLAIN:
        (copying / path).write_bytes((copying / path).read_bytes() + MARK)
    assert run("adopt", "--patch", "../x.patch", cwd=copying).code == 0
    assert run("revert", "--all", cwd=copying).code == 0
    assert read(copying) == {MAIN: PLAIN[MAIN] + MARK, WRITER: PLAIN[WRITER].replace(b"\n", b"\r\n") + MARK}


@pytest.mark.parametrize("path", [MAIN, WRITER])
def test_adopt_takes_both_files_or_none(path: str, copying: Path, run: Run) -> None:
    """One of them has the lines as they were, or as nobody knows them."""
    exported = run("export", BOTH, cwd=copying)
    (copying.parent / "x.patch").write_bytes(exported.raw)
    for data in (PLAIN[path], FAST[path].replace(b"data", b"text")):
        write(copying, {**FAST, path: data})
        before = snapshot(copying)
        ran = run("adopt", "--patch", "../x.patch", cwd=copying)
        assert ran.code == 3
        assert f"{path}: hunk 1 of the patch does not stand there" in ran.err
        assert snapshot(copying) == before


def test_adopt_holds_a_patch_to_what_it_says(copying: Path, run: Run) -> None:
    """It names two optimizations and holds the lines of one."""
    exported = run("export", READ, cwd=copying).out.replace(f"X-Apply-Opt: {READ}", f"X-Apply-Opt: {READ} {WRITE}")
    (copying.parent / "x.patch").write_text(exported)
    for files_ in ({**PLAIN, MAIN: FAST[MAIN]}, FAST):
        write(copying, dict(files_))
        ran = run("adopt", "--patch", "../x.patch", cwd=copying)
        assert ran.code == 3
        assert f"{WRITER} is not what {READ} {WRITE} makes of it" in ran.err or f"{WRITE} would not land" in ran.err
        assert not (copying / ".apply-opt").exists()


def test_adopt_refuses_other_files(copying: Path, run: Run) -> None:
    exported = run("export", READ, cwd=copying).out.replace(MAIN, WRITER)
    (copying.parent / "x.patch").write_text(exported)
    ran = run("adopt", "--patch", "../x.patch", cwd=copying)
    assert ran.code == 3
    assert f"changes {WRITER}, not {MAIN}" in ran.err


def test_adopt_refuses_another_targets(copying: Path, checkout: Path, run: Run) -> None:
    exported = run("export", "tokenizer_no_empty_cache", cwd=checkout).out
    (copying.parent / "x.patch").write_text(exported.replace("funasr_detach/auto/auto_model.py", MAIN))
    ran = run("adopt", "--patch", "../x.patch", cwd=copying)
    assert ran.code == 3
    assert "tokenizer_no_empty_cache is for step_audio_editx, and this is copy" in ran.err


def test_adopt_one_file_of_the_last_commit(committed: Path, run: Run) -> None:
    """In the other one there are edits of somebody's beside it, so that it cannot be told."""
    write(committed, {MAIN: FAST[MAIN] + MARK, WRITER: FAST[WRITER]})
    found = document(run("adopt", "--json", cwd=committed))
    assert (found["adopted"], found["left"]) == ([WRITE], [f"{READ} ({MAIN})"]), "and it is said"
    assert run("revert", "--all", cwd=committed).code == 0
    assert read(committed) == {MAIN: FAST[MAIN] + MARK, WRITER: PLAIN[WRITER]}


# Taking out


@pytest.mark.parametrize("order", [(READ, WRITE, FLUSH), (WRITE, FLUSH, READ), (FLUSH, READ, WRITE)], ids=" ".join)
def test_revert_in_any_order(order: tuple[str, ...], copying: Path, run: Run) -> None:
    assert run(BOTH, FLUSH, cwd=copying).code == 0
    left = [READ, WRITE, FLUSH]
    for name in order:
        assert run("revert", name, cwd=copying).code == 0
        left.remove(name)
        writer = changed(WRITER, *(n for n in left if n != READ))
        assert read(copying) == {MAIN: changed(MAIN, *(n for n in left if n == READ)), WRITER: writer}
    assert contents(copying) == PLAIN


@pytest.mark.parametrize("path", [MAIN, WRITER])
def test_edits_in_one_file_stay(path: str, copying: Path, run: Run) -> None:
    run(BOTH, cwd=copying)
    (copying / path).write_bytes(FAST[path] + MARK)
    assert run("revert", "--all", cwd=copying).code == 0
    assert contents(copying) == {**PLAIN, path: PLAIN[path] + MARK}


@pytest.mark.parametrize(("path", "name", "other"), [(MAIN, READ, WRITE), (WRITER, WRITE, READ)])
def test_edited_lines_in_one_file_hold_both_back(path: str, name: str, other: str, copying: Path, run: Run) -> None:
    run(BOTH, cwd=copying)
    (copying / path).write_bytes(FAST[path].replace(b"data", b"text"))
    before = contents(copying)
    ran = run("revert", "--all", cwd=copying)
    assert ran.code == 3
    assert f"{path}: lines of {name} have been edited since" in ran.err
    assert contents(copying) == before
    assert run("revert", other, cwd=copying).code == 0
    assert run("revert", "--from-backup", cwd=copying).code == 0
    assert read(copying) == PLAIN


@pytest.mark.parametrize(("path", "name", "other"), [(MAIN, READ, WRITE), (WRITER, WRITE, READ)])
def test_one_file_that_is_gone(path: str, name: str, other: str, copying: Path, run: Run) -> None:
    run(BOTH, cwd=copying)
    (copying / path).unlink()
    assert states(run, copying)[name] == "taken out by hand"
    before = contents(copying)
    ran = run("revert", name, cwd=copying)
    assert ran.code == 3
    assert f"{path} is not there any more" in ran.err
    assert contents(copying) == before
    assert run("revert", other, cwd=copying).code == 0
    assert read(copying) == {p: data for p, data in PLAIN.items() if p != path}


def test_from_backup_puts_both_back(copying: Path, run: Run) -> None:
    run(BOTH, cwd=copying)
    (copying / WRITER).unlink()
    (copying / MAIN).write_bytes(b"")
    (copying / ".apply-opt" / "ledger.json").write_bytes(b"{")
    assert run("revert", "--from-backup", cwd=copying).code == 0
    assert read(copying) == PLAIN


# git


def test_both_files_in_one_commit(committed: Path, run: Run) -> None:
    write(committed, {"notes.txt": b"mine"})
    ran = run(BOTH, "--commit", cwd=committed)
    assert ran.code == 0, ran
    assert git("show", "--name-only", "--format=", cwd=committed).split() == [MAIN, WRITER]
    assert run("revert", "--all", "--commit", cwd=committed).code == 0
    assert git("diff", "HEAD~2", cwd=committed) == ""


def test_one_file_that_is_not_committed(committed: Path, run: Run) -> None:
    (committed / WRITER).write_bytes(PLAIN[WRITER] + MARK)
    before = snapshot(committed, ".git")
    ran = run(BOTH, "--commit", cwd=committed)
    assert ran.code == 3
    assert f"{WRITER} has changes that are not committed" in ran.err
    assert snapshot(committed, ".git") == before
    assert run(READ, "--commit", cwd=committed).code == 0, "the other file has none"


@needs_shell
def test_git_refuses_both(committed: Path, run: Run) -> None:
    hook = committed / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho '# typed meanwhile' >> {WRITER}\nexit 1\n")
    hook.chmod(0o755)
    ran = run(BOTH, "--commit", cwd=committed)
    assert ran.code == 1
    assert f"what stood in {WRITER} is in .apply-opt/rescued" in ran.err
    assert read(committed) == PLAIN
    assert b"# typed meanwhile" in b"".join(d for d in contents(committed, ".git").values() if isinstance(d, bytes))


@needs_patch
def test_a_patch_of_which_a_part_is_taken_over_already(committed: Path, run: Run, tmp_path: Path) -> None:
    """Beside an edit in one of the two files, the last commit tells of the other alone; the patch then brings the rest."""
    exported = tmp_path / "both.patch"
    exported.write_text(run("export", BOTH, cwd=committed).out, encoding="utf-8")
    assert patched(committed, exported.read_bytes()).returncode == 0
    edited = (committed / MAIN).read_bytes() + MARK
    (committed / MAIN).write_bytes(edited)
    first = run("adopt", cwd=committed)
    assert first.code == 0 and f"{WRITE} is taken over" in first.out and "not taken over" in first.out
    ran = run("adopt", "--patch", str(exported), cwd=committed)
    assert ran.code == 0 and f"{READ} is taken over" in ran.out
    again = run("adopt", "--patch", str(exported), cwd=committed)
    assert again.code == 3 and "in the ledger already" in again.err
    assert run("revert", "--all", cwd=committed).code == 0
    assert read(committed) == {**PLAIN, MAIN: PLAIN[MAIN] + MARK}
