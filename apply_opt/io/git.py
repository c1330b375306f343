"""What git knows. The one owner of GitPython; every answer is ``None`` or empty where there is no git.

Git's optional locks are off, so that a look at the state does not even refresh the index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from apply_opt.errors import ApplyOptError, Conflict

if TYPE_CHECKING:
    import git


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


def _environment(repository: git.Repo) -> dict[str, str]:
    """Paths are meant letter by letter; and where a hook of another repository runs us, this one is meant all the same."""
    own = {
        "GIT_DIR": str(repository.git_dir),
        "GIT_WORK_TREE": str(repository.working_tree_dir),
        "GIT_INDEX_FILE": os.path.join(repository.git_dir, "index"),
    }
    named = {name: value for name, value in own.items() if name in os.environ}
    return {"GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1", **named}


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
        with repository.git.custom_environment(**_environment(repository)):
            return [p for p in paths if repository.git.status("--porcelain", "--ignored", "--", os.path.join(root, p))]
    except git.GitError:
        return []


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


def commit(root: str, paths: Sequence[str], message: str) -> str:
    """Commit ``paths`` and nothing else, whatever is staged beside them; gives the new commit's hash."""
    repository = _repository(root)
    if repository is None:
        raise ApplyOptError(f"{root} is not in a git repository", "leave --commit out")
    import git

    try:
        with repository.git.custom_environment(**_environment(repository)):
            repository.git.commit("--only", "-m", message, "--", *(os.path.join(root, path) for path in paths))
    except git.GitError as error:
        reason = (getattr(error, "stderr", "") or getattr(error, "stdout", "") or str(error)).strip()
        raise ApplyOptError(f"git did not commit: {reason}", "mend that, or leave --commit out") from error
    return str(repository.head.commit.hexsha)
