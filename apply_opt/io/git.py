"""What git knows. The one owner of GitPython; every answer is ``None`` or empty where there is no git.

Git's optional locks are off, so that a look at the state does not even refresh the index.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from apply_opt.errors import ApplyOptError, Conflict
from apply_opt.io import files
from apply_opt.io.checkout import STATE_FOLDER

if TYPE_CHECKING:
    import git


class _Place(NamedTuple):
    """The working tree's top, its git folder, and the one that it shares with the repository's other working trees."""

    top: str
    folder: str
    common: str


def _place(root: str) -> Optional[_Place]:
    """Where git keeps what it knows of ``root`` (https://git-scm.com/docs/gitrepository-layout).

    Read by hand, as is :func:`head`: to import GitPython takes a fifth of an apply, and most applies need no more.
    """
    top = root
    while not os.path.lexists(os.path.join(top, ".git")):
        if os.path.dirname(top) == top:
            return None
        top = os.path.dirname(top)
    folder = os.path.join(top, ".git")
    if os.path.isfile(folder):
        folder = os.path.normpath(os.path.join(top, _text(folder).removeprefix("gitdir:").strip()))
    common = os.path.normpath(os.path.join(folder, _text(os.path.join(folder, "commondir")).strip() or "."))
    is_git = os.path.isfile(os.path.join(folder, "HEAD")) and os.path.isdir(os.path.join(common, "objects"))
    return _Place(top, folder, common) if is_git else None


def _text(path: str) -> str:
    """A small text file; empty where it is not there or cannot be read."""
    try:
        return (files.read(path) or b"").decode("utf-8", "replace")
    except ApplyOptError:
        return ""


def head(root: str) -> Optional[str]:
    """The commit that is checked out."""
    place = _place(root)
    value = _text(os.path.join(place.folder, "HEAD")).strip() if place else ""
    if place and value.startswith("ref:"):
        name = value.removeprefix("ref:").strip()
        packed = [line.split(" ", 1) for line in _text(os.path.join(place.common, "packed-refs")).splitlines()]
        loose = (_text(os.path.join(folder, name)).strip() for folder in (place.folder, place.common))
        value = next((text for text in (*loose, *(p[0] for p in packed if p[1:] == [name])) if text), "")
        if os.path.isdir(os.path.join(place.common, "reftable")):
            value = _head_of_reftable(root)
    return value if len(value) in (40, 64) and not set(value) - set("0123456789abcdef") else None


def _head_of_reftable(root: str) -> str:
    """Git's newer store of references (https://git-scm.com/docs/reftable) is git's to read."""
    repository = _repository(root)
    if repository is None:
        return ""
    import git

    try:
        return str(repository.git.rev_parse("--verify", "HEAD"))
    except git.GitError:
        return ""


def exclude(root: str) -> None:
    """Keep the state folder out of ``git status``, by git's list of what this clone ignores (it is part of no commit)."""
    path, line = _exclude_line(root)
    data = files.read(path) if path else None
    if path and line not in (data or b"").split(b"\n"):
        files.make_folder(os.path.dirname(path))
        ended = data is None or data.endswith(b"\n")
        files.replace(path, (data or b"") + (line + b"\n" if ended else b"\n" + line), path + files.SCRATCH)


def include(root: str) -> None:
    """Take our line out again; every other byte stays, and a file that held nothing else goes with it.

    Working trees share the file: the last of them that has something applied takes the line out.
    """
    path, line = _exclude_line(root)
    data = files.read(path) if path else None
    if path:
        files.remove(path + files.SCRATCH)
    if data is None or line not in data.split(b"\n") or _is_shared(root):
        return
    if data == line + b"\n":  # there was no such file
        files.remove(path)
        return
    rest = data.removesuffix(b"\n" + line)
    if rest == data:
        before, _, after = (b"\n" + data).partition(b"\n" + line + b"\n")
        rest = (before + b"\n" + after)[1:]
    files.replace(path, rest, path + files.SCRATCH)


def _is_shared(root: str) -> bool:
    place = _place(root)
    if place is None:
        return False
    trees = os.path.join(place.common, "worktrees")
    links = [os.path.join(trees, name, "gitdir") for name in os.listdir(trees)] if os.path.isdir(trees) else []
    tops = {os.path.dirname(place.common), *(os.path.dirname(_text(link).strip()) for link in links)} - {place.top, ""}
    return any(os.path.isdir(os.path.join(top, os.path.relpath(root, place.top), STATE_FOLDER)) for top in tops)


def _exclude_line(root: str) -> tuple[str, bytes]:
    """The file and our line in it, anchored at the working tree's top; two empty strings where there is no git."""
    place = _place(root)
    if place is None or "\n" in os.path.relpath(root, place.top):  # a pattern is one line
        return "", b""
    below = os.path.relpath(root, place.top).replace(os.sep, "/")
    folder = STATE_FOLDER if below == "." else f"{below}/{STATE_FOLDER}"
    path = os.path.realpath(os.path.join(place.common, "info", "exclude"))
    return path, re.sub(r"([\\*?\[])", r"\\\1", f"/{folder}/").encode("utf-8", "surrogateescape")


def _repository(root: str) -> Optional[git.Repo]:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if _place(root) is None:
        return None
    import git

    try:
        return git.Repo(root, search_parent_directories=True)
    except git.GitError:
        return None


def _environment(repository: git.Repo) -> dict[str, str]:
    """Where a hook of another repository runs us, this one is meant all the same."""
    own = {
        "GIT_DIR": str(repository.git_dir),
        "GIT_WORK_TREE": str(repository.working_tree_dir),
        "GIT_INDEX_FILE": os.path.join(repository.git_dir, "index"),
    }
    return {"GIT_OPTIONAL_LOCKS": "0", **{name: value for name, value in own.items() if name in os.environ}}


def _literally(root: str, path: str) -> str:
    """A path that is meant letter by letter. (By the environment, it would be so for the hooks as well.)"""
    return f":(literal){os.path.join(root, path)}"


def dirty(root: str, paths: Sequence[str]) -> list[str]:
    """Which of ``paths`` differ from the last commit (or are not in it). Raises where git cannot say."""
    repository = _repository(root)
    if repository is None:
        return []
    import git

    try:
        with repository.git.custom_environment(**_environment(repository)):
            return [path for path in paths if _is_dirty(repository, _literally(root, path))]
    except git.GitError as error:
        raise ApplyOptError(f"git does not answer in {root}: {error}", "check with: git status") from error


def _is_dirty(repository: git.Repo, path: str) -> bool:
    """Also where git has been told to overlook changes (assume-unchanged, skip-worktree): they would be committed."""
    tag = repository.git.ls_files("-v", "--", path)[:1]
    return tag.islower() or tag == "S" or bool(repository.git.status("--porcelain", "--ignored", "--", path))


def committed(root: str, path: str) -> Optional[bytes]:
    """A file as it is in the last commit."""
    place, repository = _place(root), _repository(root)
    if place is None or repository is None:
        return None
    import git

    name = os.path.relpath(os.path.join(root, path), place.top).replace(os.sep, "/")
    try:
        with repository.git.custom_environment(**_environment(repository)):
            data = repository.git.cat_file(
                "blob", f"HEAD:{name}", stdout_as_string=False, strip_newline_in_stdout=False
            )
    except git.GitError:
        return None
    return bytes(data)


def check_clean(root: str, paths: Sequence[str]) -> None:
    """Raise where ``paths`` cannot be committed without anything else: no commit yet, or changes in them already."""
    if head(root) is None:
        raise ApplyOptError(f"{root} is not in a git repository with a commit", "leave --commit out")
    changed = dirty(root, paths)
    if changed:
        raise Conflict(
            f"{', '.join(changed)} has changes that are not committed: they would go into the commit",
            "commit them first, or leave --commit out",
        )


def commit(root: str, paths: Sequence[str], message: str) -> None:
    """Commit ``paths`` and nothing else, whatever is staged beside them. An interrupt waits until git is done."""
    repository = _repository(root)
    if repository is None:
        raise ApplyOptError(f"{root} is not in a git repository", "leave --commit out")
    import git

    try:
        with repository.git.custom_environment(**_environment(repository)), _interrupts_waiting():
            repository.git.commit("--only", "-m", message, "--", *(_literally(root, path) for path in paths))
    except git.GitError as error:
        said = getattr(error, "stderr", "") or getattr(error, "stdout", "") or str(error)
        reason = re.sub(r"^\s*std(?:err|out): '(.*?)'?\s*$", r"\1", said, flags=re.DOTALL).strip()
        raise ApplyOptError(f"git did not commit: {reason}", "mend that, or leave --commit out") from error


@contextlib.contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """Ctrl-C reaches git by itself; what git has made of it is known when git has ended."""
    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
    except ValueError:  # not the main thread, which is the one that is interrupted
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
