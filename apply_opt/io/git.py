"""What git knows. The one owner of GitPython; every answer is ``None`` or empty where there is no git.

Git's optional locks are off, so that a look at the state does not even refresh the index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from apply_opt.errors import ApplyOptError
from apply_opt.io import files
from apply_opt.io.checkout import STATE_FOLDER

if TYPE_CHECKING:
    import git

_LINE = f"/{STATE_FOLDER}/"


def _repository(root: str) -> Optional[git.Repo]:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if not any(os.path.lexists(os.path.join(folder, ".git")) for folder in _upwards(root)):
        return None
    import git

    try:
        return git.Repo(root, search_parent_directories=True)
    except git.GitError:
        return None


def _upwards(path: str) -> Sequence[str]:
    folders = [path]
    while os.path.dirname(folders[-1]) != folders[-1]:
        folders.append(os.path.dirname(folders[-1]))
    return folders


def head(root: str) -> Optional[str]:
    """The commit that is checked out."""
    repository = _repository(root)
    try:
        return repository.head.commit.hexsha if repository and not repository.bare else None
    except (ValueError, OSError):  # no commit yet
        return None


def dirty(root: str, paths: Sequence[str]) -> list[str]:
    """Which of ``paths`` differ from the last commit (or are not in it)."""
    repository = _repository(root)
    if repository is None:
        return []
    import git

    try:
        with repository.git.custom_environment(GIT_OPTIONAL_LOCKS="0"):
            return [p for p in paths if repository.git.status("--porcelain", "--ignored", "--", os.path.join(root, p))]
    except git.GitError:
        return []


def commit(root: str, paths: Sequence[str], message: str) -> str:
    """Commit ``paths`` and nothing else, whatever is staged beside them; gives the new commit's hash."""
    repository = _repository(root)
    if repository is None:
        raise ApplyOptError(f"{root} is not in a git repository", "leave --commit out")
    import git

    try:
        repository.git.commit("--only", "-m", message, "--", *(os.path.join(root, path) for path in paths))
    except git.GitError as error:
        reason = (getattr(error, "stderr", "") or getattr(error, "stdout", "") or str(error)).strip()
        raise ApplyOptError(f"git did not commit: {reason}", "mend that, or leave --commit out") from error
    return str(repository.head.commit.hexsha)


def _exclude_file(root: str) -> Optional[tuple[str, str]]:
    """Git's own list of ignored files for this clone (it is not part of any commit), and our line in it."""
    repository = _repository(root)
    if repository is None or repository.bare or repository.working_tree_dir is None:
        return None
    below = os.path.relpath(root, os.path.realpath(repository.working_tree_dir)).replace(os.sep, "/")
    line = _LINE if below == "." else f"/{below}{_LINE}"
    return os.path.join(repository.common_dir, "info", "exclude"), line


def exclude(root: str) -> None:
    """Keep the state folder out of ``git status``."""
    place = _exclude_file(root)
    if place is None:
        return
    path, line = place
    data = files.read(path)
    if data is not None and line.encode() in data.splitlines():
        return
    start = data or b""
    joint = b"" if not start or start.endswith(b"\n") else b"\n"
    files.make_folder(os.path.dirname(path))
    files.replace(path, start + joint + line.encode() + b"\n", path + ".apply-opt-new")


def include(root: str) -> None:
    """Take our line out again; a file that held nothing else goes with it."""
    place = _exclude_file(root)
    if place is None:
        return
    path, line = place
    files.remove(path + ".apply-opt-new")
    data = files.read(path)
    if data is None or line.encode() not in data.splitlines():
        return
    rest = data.replace(line.encode() + b"\n", b"", 1)
    if rest:
        files.replace(path, rest, path + ".apply-opt-new")
    else:
        files.remove(path)
