"""``revert``: our lines go, whatever was edited since and in any order; or nothing changes and it says why."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
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
    contents,
    copy,
    git,
    patched,
    snapshot,
    traces,
)

Run = Callable[..., Ran]
PLAIN = (REFERENCE / "tokenizer.py").read_bytes()
needs_patch = pytest.mark.skipif(not shutil.which("patch"), reason="no GNU patch")


@pytest.fixture
def applied(checkout: Path, run: Run) -> Path:
    """A checkout with all three in it."""
    assert run("tokenizer_quick", *EVERYTHING, cwd=checkout).code == 0
    return checkout


def tokenizer(folder: Path) -> bytes:
    return (folder / "tokenizer.py").read_bytes()


def edit(folder: Path, change: Callable[[bytes], bytes]) -> bytes:
    """Edit the file as its user; gives what it is now."""
    data = change(tokenizer(folder))
    assert data != tokenizer(folder)
    (folder / "tokenizer.py").write_bytes(data)
    return data


def states(run: Run, folder: Path) -> dict[str, str]:
    document = json.loads(run("status", "--json", cwd=folder).out)
    return {name: found["state"] for name, found in document["optimizations"].items() if name in QUICK}


# Any order.

ORDERS = list(itertools.permutations(QUICK))


@pytest.mark.parametrize("put_in", [ORDERS[0], ORDERS[-1]], ids=str)
@pytest.mark.parametrize("taken_out", ORDERS, ids=str)
def test_any_order(
    put_in: tuple[str, ...], taken_out: tuple[str, ...], checkout: Path, run: Run, tmp_path: Path
) -> None:
    for name in put_in:
        assert run(name, *(EVERYTHING if name == LIGHT else EVERYTHING[:2]), cwd=checkout).code == 0
    for n, name in enumerate(taken_out, 1):
        assert run("revert", name, cwd=checkout).code == 0
        left = [other for other in put_in if other not in taken_out[:n]]
        if left:
            assert states(run, checkout) | dict.fromkeys(left, "applied") == states(run, checkout)
            other = copy(REFERENCE, tmp_path / str(n))
            for name in left:
                assert run(name, *(EVERYTHING if name == LIGHT else EVERYTHING[:2]), cwd=other).code == 0
            assert tokenizer(other) == tokenizer(checkout)
    assert contents(checkout) == contents(REFERENCE, "__pycache__")


def test_the_last_one_first(applied: Path, run: Run) -> None:
    for left in (2, 1, 0):
        ran = run("revert", cwd=applied)
        assert ran.code == 0
        assert f"{QUICK[left]} is taken out" in ran.out
        assert (
            f"still applied: {', '.join(QUICK[:left])}"
            if left
            else "nothing that apply-opt knows of is applied any more"
        ) in ran.out
    assert contents(applied) == contents(REFERENCE, "__pycache__")


def test_what_is_left_without_something_comes_out_with_all_on_top(tmp_path: Path, run: Run) -> None:
    """The next step that is told can be taken."""
    tree = copy(ROOT / "target_repos" / "time_llm" / "reference", tmp_path / "tree")
    assert run("timellm_outputs_off", "timellm_sdpa", "timellm_prompt_kv", cwd=tree).code == 0
    ran = run("revert", "timellm_outputs_off", cwd=tree)
    assert "timellm_sdpa does not work without timellm_outputs_off\n" in ran.out
    assert "take it out too: apply-opt revert timellm_prompt_kv timellm_sdpa\n" in ran.out
    assert run("revert", "timellm_prompt_kv", "timellm_sdpa", cwd=tree).code == 0
    assert contents(tree) == contents(ROOT / "target_repos" / "time_llm" / "reference", "__pycache__")


@pytest.mark.parametrize(
    "words", [("--all",), ("tokenizer_quick",), QUICK, (LIGHT, TF32, THREADS, TF32, "tokenizer_quick")]
)
def test_several_at_once(words: tuple[str, ...], applied: Path, run: Run) -> None:
    ran = run("revert", *words, "--json", cwd=applied)
    assert sorted(json.loads(ran.out)["reverted"]) == sorted(QUICK)
    assert contents(applied) == contents(REFERENCE, "__pycache__")


def test_apply_again_and_revert_again(checkout: Path, run: Run) -> None:
    for _ in range(3):
        for name in (THREADS, TF32):
            assert run(name, "--allow", "lossy", cwd=checkout).code == 0
        for name in (THREADS, TF32):
            assert run("revert", name, cwd=checkout).code == 0
    assert contents(checkout) == contents(REFERENCE, "__pycache__")


# The user's edits stay.


def site(data: bytes) -> int:
    """The offset of the line with the session's options."""
    return data.index(b"        session_option.intra_op")


def at(offset: int, text: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + text + data[offset:]


MARK = b"# the user's\n"
EDITS: dict[str, Callable[[bytes], bytes]] = {
    "at the top": lambda data: MARK + data,
    "at the bottom": lambda data: data + MARK,
    "between our functions and the class": lambda data: data.replace(b"class StepAudioT", MARK + b"class StepAudioT"),
    "above our functions": lambda data: data.replace(b"def _with_tf32", MARK + b"\n\ndef _with_tf32"),
    "between our two functions": lambda data: data.replace(b"def _ort_intra", MARK + b"\n\ndef _ort_intra"),
    "two lines above the site": lambda data: at(data.rindex(b"\n", 0, site(data) - 1) + 1, b"        " + MARK)(data),
    "directly above the site": lambda data: at(site(data), b"        " + MARK)(data),
    "directly below the site": lambda data: at(data.index(b"\n", site(data)) + 1, b"        " + MARK)(data),
    "two lines below the site": lambda data: at(
        data.index(b"\n", data.index(b"\n", site(data)) + 1) + 1, b"            # the user's\n"
    )(data),
    "directly above the decorator": lambda data: data.replace(b"    @_with", b"    " + MARK + b"    @_with"),
    "between decorator and method": lambda data: data.replace(b"    def get_vq02", b"    @users\n    def get_vq02"),
    "the decorated method's body": lambda data: data.replace(
        b"        file = io.BytesIO()\n", MARK + b"        file = other()\n"
    ),
    "the line above the site replaced": lambda data: data.replace(
        b'"session.intra_op.allow_spinning", "0"', b'"other", "1"'
    ),
    "everything above taken out": lambda data: data[data.index(b"def _with_tf32") :],
    "methods in another order": lambda data: data[: data.index(b"    def interleave")].replace(
        b"    def __call__", data[data.index(b"    def interleave") :] + b"\n    def __call__"
    ),
    "blank lines about": lambda data: data.replace(b"\nclass Step", b"\n\n\nclass Step").replace(
        b"\ndef _", b"\n\n\ndef _"
    ),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS.keys())
def test_the_users_edits_stay(change: Callable[[bytes], bytes], applied: Path, run: Run) -> None:
    ours = {
        line for line in tokenizer(applied).splitlines(keepends=True) if line not in PLAIN.splitlines(keepends=True)
    }
    theirs = {
        line for line in PLAIN.splitlines(keepends=True) if line not in tokenizer(applied).splitlines(keepends=True)
    }
    assert len(theirs) == 2
    now = edit(applied, change)
    assert set(states(run, applied).values()) == {"applied, and edited since"}
    assert run("revert", "--all", cwd=applied).code == 0
    result = tokenizer(applied)
    assert not traces(applied)
    assert not ours.intersection(result.splitlines(keepends=True))
    assert theirs.issubset(result.splitlines(keepends=True))
    for text in (MARK, b"        file = other()\n", b"    @users\n", b" OTHER\n"):
        assert result.count(text) == now.count(text)
    compile(result, "tokenizer.py", "exec")


SAME_ON_PLAIN = (
    "at the top",
    "at the bottom",
    "directly above the site",
    "directly below the site",
    "methods in another order",
)


@pytest.mark.parametrize("name", SAME_ON_PLAIN)
@pytest.mark.parametrize("order", ORDERS[::3], ids=str)
def test_as_if_we_had_never_been_there(name: str, order: tuple[str, ...], applied: Path, run: Run) -> None:
    edit(applied, EDITS[name])
    for one in order:
        assert run("revert", one, cwd=applied).code == 0
    assert tokenizer(applied) == EDITS[name](PLAIN)


def test_edits_between_two_applies(checkout: Path, run: Run) -> None:
    run(TF32, "--allow", "lossy", cwd=checkout)
    edit(checkout, lambda data: MARK + data)
    run(THREADS, cwd=checkout)
    edit(checkout, lambda data: data + MARK)
    assert run("revert", TF32, cwd=checkout).code == 0
    assert states(run, checkout)[THREADS] == "applied, and edited since"
    edit(checkout, lambda data: data + MARK)
    assert run("revert", THREADS, cwd=checkout).code == 0
    assert tokenizer(checkout) == MARK + PLAIN + MARK + MARK


def test_edits_before_the_first_apply_are_the_original(checkout: Path, run: Run) -> None:
    edit(checkout, lambda data: MARK + data)
    run(THREADS, cwd=checkout)
    assert run("revert", "--from-backup", cwd=checkout).code == 0
    assert tokenizer(checkout) == MARK + PLAIN


# Edits of our own lines.

OURS_EDITED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a line in our function": (THREADS, lambda data: data.replace(b"    return cores\n", b"    return cores + 1\n")),
    "a line put into our function": (
        TF32,
        lambda data: data.replace(b"    return call\n", b"    # mine\n    return call\n"),
    ),
    "our function renamed": (THREADS, lambda data: data.replace(b"_ort_intra_op_threads", b"threads")),
    "the line that we replaced": (THREADS, lambda data: data.replace(b"_ort_intra_op_threads(providers)\n", b"7\n")),
    "our decorator taken out": (TF32, lambda data: data.replace(b"    @_with_tf32_matmul\n", b"")),
    "the model's name": (LIGHT, lambda data: data.replace(b'"damo/', b'"mine/')),
    "our function doubled": (
        THREADS,
        lambda data: (
            data[: data.index(b"class Step")].replace(b"return 1", b"return 2")
            + data[data.index(b"def _ort_intra") : data.index(b"class Step")].replace(b"return 1", b"return 2")
            + data[data.index(b"class Step") :]
        ),
    ),
}


@pytest.mark.parametrize(("name", "change"), OURS_EDITED.values(), ids=OURS_EDITED.keys())
def test_an_edit_of_our_lines_is_a_conflict(
    name: str, change: Callable[[bytes], bytes], applied: Path, run: Run
) -> None:
    edit(applied, change)
    before = contents(applied)
    assert states(run, applied)[name] == "partly applied"
    for words in ((name,), ("--all",)):
        ran = run("revert", *words, cwd=applied)
        assert ran.code == 3
        assert f"tokenizer.py: lines of {name} have been edited since" in ran.err
        assert "Nothing was changed. About here:\n" in ran.err
        assert re.search(r"\n +\d+  .*\S", ran.err), "no lines are shown"
        assert "apply-opt revert --from-backup" in ran.err
        assert contents(applied) == before
    others = [other for other in QUICK if other != name]
    assert run("revert", *others, cwd=applied).code == 0
    assert next(iter(json.loads(run("status", "--json", cwd=applied).out)["optimizations"])) == name


def test_a_conflict_shows_the_lines_that_were_edited(applied: Path, run: Run) -> None:
    now = edit(applied, lambda data: data.replace(b"    return cores\n", b"    return cores * 2\n"))
    number = now[: now.index(b"return cores * 2")].count(b"\n") + 1
    assert f"{number:5}      return cores * 2" in run("revert", THREADS, cwd=applied).err


def test_the_users_own_backup_of_a_conflict(applied: Path, run: Run) -> None:
    now = edit(applied, lambda data: MARK + data.replace(b"    return cores\n", b"    return 5\n"))
    ran = run("revert", "--from-backup", cwd=applied)
    assert ran.code == 0
    assert tokenizer(applied) == PLAIN
    (rescued,) = (applied / ".apply-opt" / "rescued").iterdir()
    assert rescued.name.startswith("tokenizer.py.")
    assert rescued.read_bytes() == now
    assert "what stood there is in .apply-opt/rescued" in ran.out
    assert sorted(p.name for p in (applied / ".apply-opt").iterdir()) == ["rescued"]
    assert json.loads(run("status", "--json", cwd=applied).out)["pristine"] is True
    assert run("tokenizer_quick", cwd=applied).code == 0  # and what was rescued stays
    assert run("revert", "--all", cwd=applied).code == 0
    assert rescued.read_bytes() == now
    assert tokenizer(applied) == PLAIN


# By structure, where a formatter ran.


def tabs(data: bytes) -> bytes:
    return re.sub(rb"(?m)^(?:    )+", lambda found: b"\t" * (len(found[0]) // 4), data)


def unparsed(data: bytes) -> bytes:
    return ast.unparse(ast.parse(data)).encode() + b"\n"


def wrapped(data: bytes) -> bytes:
    """Calls on three lines, wherever that says the same."""
    for found in re.finditer(rb"(?m)^( +)(.*?)\((\w.*)\)$", data):
        indent, head, arguments = found.groups()
        longer = data.replace(found[0], b"%s%s(\n%s    %s\n%s)" % (indent, head, indent, arguments, indent))
        try:
            data = longer if ast.dump(ast.parse(longer)) == ast.dump(ast.parse(data)) else data
        except SyntaxError:
            continue
    return data


FORMATTERS: dict[str, Callable[[bytes], bytes]] = {
    "tabs": tabs,
    "unparsed": unparsed,
    "single quotes": lambda data: (
        unparsed(data).replace(b'"', b"'") if b'"""' not in unparsed(data) else unparsed(data)
    ),
    "wrapped": wrapped,
    "two spaces": lambda data: re.sub(rb"(?m)^ +", lambda found: b" " * (len(found[0]) // 2), data),
    "tabs and comments": lambda data: tabs(data).replace(b"\n\tdef ", b"\n\t# a comment\n\tdef "),
}


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS.keys())
@pytest.mark.parametrize("name", QUICK)
def test_after_a_formatter_by_structure_or_not_at_all(
    name: str, formatter: Callable[[bytes], bytes], applied: Path, run: Run
) -> None:
    now = edit(applied, formatter)
    ran = run("revert", name, cwd=applied)
    if ran.code == 3:
        assert tokenizer(applied) == now
        assert "have been edited since" in ran.err
        return
    assert ran.code == 0
    expected = {TF32: b"_with_tf32_matmul", THREADS: b"_ort_intra_op_threads", LIGHT: b"damo/"}[name]
    assert expected in now
    assert expected not in tokenizer(applied)
    undone = {line for line in unparsed(tokenizer(applied)).splitlines() if line.strip()}
    assert undone.issubset({*unparsed(now).splitlines(), *unparsed(formatter(PLAIN)).splitlines()})


@pytest.mark.parametrize("formatter", [tabs, unparsed, FORMATTERS["two spaces"]])
def test_after_a_formatter_all_of_it(formatter: Callable[[bytes], bytes], applied: Path, run: Run) -> None:
    edit(applied, formatter)
    assert run("revert", "--all", cwd=applied).code == 0
    assert unparsed(tokenizer(applied)) == unparsed(formatter(PLAIN))
    assert not traces(applied)


def test_two_statements_on_one_line_are_not_taken_out_together(applied: Path, run: Run) -> None:
    edit(
        applied, lambda data: data.replace(b"        session_option.intra", b"        users = 1; session_option.intra")
    )
    before = contents(applied)
    assert run("revert", THREADS, cwd=applied).code == 3
    assert contents(applied) == before


# Taken out by hand.


@needs_patch
def test_with_patch(checkout: Path, run: Run) -> None:
    exported = run("export", "tokenizer_quick", *EVERYTHING, cwd=checkout).raw
    run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    assert patched(checkout, exported, "-R").returncode == 0
    assert tokenizer(checkout) == PLAIN
    ran = run("status", cwd=checkout)
    assert "pristine" in ran.out
    assert ran.out.count("taken out by hand") == 3
    for words in (("revert", "--all"), ("tokenizer_quick", *EVERYTHING), ("revert", "--all")):
        assert run(*words, cwd=checkout).code == 0
    assert contents(checkout) == contents(REFERENCE, "__pycache__")


@needs_patch
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("user", [False, True])
def test_one_of_several_with_patch(order: tuple[str, ...], user: bool, checkout: Path, run: Run) -> None:
    """The first of ``order`` is taken out by hand; the others stay, and come off as always."""
    exported = run("export", order[0], *(EVERYTHING if order[0] == LIGHT else EVERYTHING[:2]), cwd=checkout).raw
    run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    if user:
        edit(checkout, lambda data: MARK + data + MARK)
    assert patched(checkout, exported, "-R", "--force", "--fuzz=3").returncode == 0
    expected = "applied, and edited since"
    assert states(run, checkout) == {name: "taken out by hand" if name == order[0] else expected for name in QUICK}
    assert run("revert", order[1], cwd=checkout).code == 0
    found = states(run, checkout)
    assert found[order[2]] in (expected, "applied")
    assert found.get(order[0], "not applied") == "not applied"  # its record went with the other's
    assert run("revert", cwd=checkout).code == 0
    assert tokenizer(checkout) == (MARK + PLAIN + MARK if user else PLAIN)
    assert not traces(checkout)


@needs_patch
@pytest.mark.parametrize("name", QUICK)
def test_one_with_patch_and_in_again(name: str, checkout: Path, run: Run) -> None:
    words = (name, *(EVERYTHING if name == LIGHT else EVERYTHING[:2]))
    exported = run("export", *words, cwd=checkout).raw
    run("tokenizer_quick", *EVERYTHING, cwd=checkout)
    assert patched(checkout, exported, "-R", "--force", "--fuzz=3").returncode == 0
    assert run(*words, cwd=checkout).code == 0
    assert dict.fromkeys(QUICK, "applied") == states(run, checkout)
    assert run("revert", "--from-backup", cwd=checkout).code == 0
    assert contents(checkout) == contents(REFERENCE, "__pycache__")


def test_with_git(git_checkout: Path, run: Run) -> None:
    run("tokenizer_quick", *EVERYTHING, cwd=git_checkout)
    git("checkout", "--quiet", "tokenizer.py", cwd=git_checkout)
    assert json.loads(run("status", "--json", cwd=git_checkout).out)["pristine"] is True
    ran = run("revert", TF32, cwd=git_checkout)
    assert ran.code == 0
    assert "it had been taken out by hand" in ran.out
    assert git("status", "--porcelain", "--ignored", cwd=git_checkout) == ""


def test_the_file_is_gone(applied: Path, run: Run) -> None:
    (applied / "tokenizer.py").unlink()
    before = contents(applied)
    ran = run("revert", "--all", cwd=applied)
    assert ran.code == 3
    assert "tokenizer.py is not there any more" in ran.err
    assert "--from-backup" in ran.err
    assert contents(applied) == before
    assert run("revert", "--from-backup", cwd=applied).code == 0
    assert contents(applied) == contents(REFERENCE, "__pycache__")


def test_the_file_was_moved(applied: Path, run: Run) -> None:
    """The record of the old place does not stand in the way of the new one."""
    (applied / "src").mkdir()
    (applied / "tokenizer.py").rename(applied / "src" / "encode.py")
    assert set(states(run, applied).values()) == {"applied by hand"}
    ran = run("tokenizer_quick", *EVERYTHING, cwd=applied)
    assert ran.code == 0
    assert ran.out.count("already there (src/encode.py:") == 3
    (applied / "src" / "encode.py").write_bytes(PLAIN)
    assert run("tokenizer_quick", *EVERYTHING, cwd=applied).code == 0
    assert run("revert", "--all", cwd=applied).code == 0
    assert (applied / "src" / "encode.py").read_bytes() == PLAIN
    assert not traces(applied)


# Nothing to do, and wrong words.


@pytest.mark.parametrize("words", [(), ("--all",), ("--from-backup",)])
def test_nothing_is_applied(words: tuple[str, ...], checkout: Path, run: Run, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    for folder in (checkout, tmp_path):
        ran = run("revert", *words, cwd=folder)
        assert ran.code == 0
        assert ran.out.startswith("nothing is applied here\n")
        document = json.loads(run("revert", *words, "--json", cwd=folder).out)
        assert document == {
            "checkout": str(folder),
            "reverted": [],
            "still_applied": [],
            "files": {},
            "commit": None,
        }
    assert snapshot(tmp_path) == before


def test_not_applied_is_not_the_same_as_taken_out(checkout: Path, run: Run) -> None:
    for applied in ("nothing", THREADS):
        ran = run("revert", TF32, cwd=checkout)
        assert ran.code == 1
        assert f"{TF32} is not applied here: {applied} is" in ran.err
        assert "apply-opt adopt" in ran.err
        run(THREADS, cwd=checkout)


def test_a_name_that_does_not_exist(checkout: Path, run: Run) -> None:
    for _ in range(2):
        ran = run("revert", "tokenizer_tf23", cwd=checkout)
        assert ran.code == 2
        assert "did you mean tokenizer_tf32?" in ran.err
        run(THREADS, cwd=checkout)


@pytest.mark.parametrize("option", ["--all", "--from-backup"])
def test_names_and_everything(option: str, applied: Path, run: Run) -> None:
    before = snapshot(applied)
    ran = run("revert", TF32, option, cwd=applied)
    assert ran.code == 2
    assert "do not go together" in ran.err
    assert snapshot(applied) == before


def test_a_folder_that_does_not_exist(run: Run, tmp_path: Path) -> None:
    assert run("revert", "--repo", "nowhere", cwd=tmp_path).code == 3


def test_what_only_a_pack_knew_comes_off_without_the_pack(
    applied: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revert asks the ledger, not the catalog."""
    from apply_opt.io import catalog

    monkeypatch.setattr(catalog, "load", lambda packs=True: catalog.Catalog({}, {}, {}))
    assert run("revert", TF32, cwd=applied).code == 0
    assert run("revert", "--all", cwd=applied).code == 0
    assert contents(applied) == contents(REFERENCE, "__pycache__")


@pytest.mark.parametrize("what", ["tokenizer.py", ".", ".apply-opt"])
def test_read_only(what: str, applied: Path, run: Run) -> None:
    path = applied / what
    path.chmod(path.stat().st_mode & ~0o222 & 0o7777)
    before = contents(applied)
    ran = run("revert", "--all", cwd=applied)
    assert ran.code == 3
    assert "is read-only" in ran.err and "chmod u+w" in ran.err
    assert contents(applied) == before


# From the backup.


def damage(name: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (path,) = (folder / ".apply-opt").glob(name)
        data = change(path.read_bytes())
        path.unlink()
        if data is not None:
            path.write_bytes(data)

    return spoil


DAMAGES = {
    "nothing": lambda folder: None,
    "the ledger cut off": damage("ledger.json", lambda data: data[:100]),
    "the ledger lost": damage("ledger.json", lambda data: None),
    "the ledger edited": damage("ledger.json", lambda data: data.replace(b'"by": "apply"', b'"by": "me"')),
    "a newer ledger": damage("ledger.json", lambda data: data.replace(b'"format": 1', b'"format": 2')),
    "all contents lost": lambda folder: shutil.rmtree(folder / ".apply-opt" / "objects"),
    "git is gone": lambda folder: shutil.rmtree(folder / ".git"),
    "a journal that nobody can read": lambda folder: (folder / ".apply-opt" / "journal.json").write_text("{"),
}


@pytest.mark.parametrize("spoil", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("user", [b"", MARK])
def test_from_backup_whatever_is_damaged(
    spoil: Callable[[Path], None], user: bytes, git_checkout: Path, run: Run
) -> None:
    run("tokenizer_quick", *EVERYTHING, cwd=git_checkout)
    if user:
        edit(git_checkout, lambda data: data + user)
    now = tokenizer(git_checkout)
    spoil(git_checkout)
    is_ledger_lost = spoil in list(DAMAGES.values())[1:5]
    ran = run("revert", "--from-backup", cwd=git_checkout)
    assert ran.code == 0
    assert "tokenizer.py is as it was before the first apply" in ran.out
    assert tokenizer(git_checkout) == PLAIN
    rescued = {p.read_bytes() for p in git_checkout.glob(".apply-opt/rescued/tokenizer.py.*")}
    assert rescued == ({now} if user or is_ledger_lost else set())
    assert json.loads(run("status", "--json", cwd=git_checkout).out)["pristine"] is True
    assert run("revert", "--all", cwd=git_checkout).code == 0
    if (git_checkout / ".git").exists():
        assert git("status", "--porcelain", cwd=git_checkout) == ""


@pytest.mark.parametrize("spoil", list(DAMAGES.values())[1:6], ids=list(DAMAGES)[1:6])
@pytest.mark.parametrize(
    "words", [("revert",), ("tokenizer_quick",), ("diff", THREADS), ("export", THREADS), ("adopt",)]
)
def test_damage_is_said_and_nothing_is_done(
    spoil: Callable[[Path], None], words: tuple[str, ...], checkout: Path, run: Run
) -> None:
    run(TF32, "--allow", "lossy", cwd=checkout)
    edit(checkout, lambda data: MARK + data)
    spoil(checkout)
    before = contents(checkout)
    ran = run(*words, cwd=checkout)
    if words == ("adopt",) and (checkout / ".apply-opt" / "ledger.json").exists() and ran.code == 3:
        return  # the ledger is whole, and says no
    assert ran.code == 1, ran
    assert ".apply-opt/" in ran.err
    assert "apply-opt revert --from-backup" in ran.err
    assert contents(checkout) == before
    assert json.loads(run(*words, "--json", cwd=checkout).out)["error"]["kind"] == "ledger"


def test_a_backup_that_was_edited_is_not_the_original(applied: Path, run: Run) -> None:
    backup = applied / ".apply-opt" / "backup" / "tokenizer.py"
    backup.write_bytes(PLAIN + b"evil()\n")
    before = contents(applied)
    ran = run("revert", "--from-backup", cwd=applied)
    assert ran.code == 1
    assert ".apply-opt/backup/tokenizer.py was changed" in ran.err
    assert contents(applied) == before
    assert run("revert", "--all", cwd=applied).code == 0
    assert contents(applied) == contents(REFERENCE, "__pycache__")


def test_no_backup(applied: Path, run: Run) -> None:
    shutil.rmtree(applied / ".apply-opt" / "backup")
    before = contents(applied)
    ran = run("revert", "--from-backup", cwd=applied)
    assert ran.code == 1
    assert "there is no backup" in ran.err
    assert contents(applied) == before


def test_from_backup_where_all_is_as_it_was(applied: Path, run: Run) -> None:
    (applied / "tokenizer.py").write_bytes(PLAIN)
    assert "the files already are as in the backup" in run("revert", "--from-backup", cwd=applied).out
    assert contents(applied) == contents(REFERENCE, "__pycache__")


def test_from_backup_a_file_that_is_read_only(applied: Path, run: Run) -> None:
    (applied / "tokenizer.py").chmod(0o444)
    before = contents(applied)
    assert run("revert", "--from-backup", cwd=applied).code == 3
    assert contents(applied) == before


def test_a_backup_that_leads_out_of_the_tree(applied: Path, run: Run, tmp_path: Path) -> None:
    """A checkout may come with a state folder that somebody else made."""
    (tmp_path / "outside").mkdir()
    (applied / "linked").symlink_to(tmp_path / "outside")
    (applied / ".apply-opt" / "backup" / "linked").mkdir()
    (applied / ".apply-opt" / "backup" / "linked" / "evil.py").write_text("evil()")
    (applied / ".apply-opt" / "ledger.json").unlink()
    before = contents(tmp_path)
    ran = run("revert", "--from-backup", cwd=applied)
    assert ran.code == 3
    assert "leads out of the checkout" in ran.err
    assert contents(tmp_path) == before
