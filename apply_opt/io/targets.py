"""The targets that there are, and the reading of manifests. Apart from the catalog of units, which a quick look does not need."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional, cast

from apply_opt.errors import ApplyOptError
from apply_opt.io import files

if TYPE_CHECKING:
    from apply_opt.model.claims import Claim
    from apply_opt.model.target import Revision, Target


def data_root() -> str:
    """Our own units: beside the package in a source tree, inside it in an installed wheel."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(package, "units")
    return installed if os.path.isdir(installed) else os.path.dirname(package)


def load_targets(root: str) -> dict[str, Target]:
    """The targets of one root."""
    from apply_opt.model.target import parse_target

    found = {}
    for name, folder in folders(os.path.join(root, "target_repos"), "target.toml"):
        with manifest_errors(folder):
            found[name] = parse_target(name, folder, read_toml(os.path.join(folder, "target.toml")))
    return found


def load_claims(folder: str) -> list[Claim]:
    """What others have said of the speed of the target in ``folder``; nothing, where no ``claims.toml`` is there."""
    from apply_opt.model.claims import parse_claims

    path = os.path.join(folder, "claims.toml")
    with manifest_errors(path):
        return parse_claims(read_toml(path)) if os.path.isfile(path) else []


def known_revisions(root: str, digest: str) -> list[Revision]:
    """The known revisions of the target, of a root, that has one with this sha256.

    Read from the text: the parser for TOML alone takes a tenth of the time that ``status`` has. Where a manifest is
    written in another way than ours, nothing is found, and a slower look finds the same.
    """
    for _, folder in folders(os.path.join(root, "target_repos"), "target.toml"):
        text = (files.read(os.path.join(folder, "target.toml")) or b"").decode("utf-8", "replace")
        if f'\nsha256 = "{digest}"\n' in text:
            return list(filter(None, map(_read_revision, text.split("\n[[revision]]\n")[1:])))
    return []


def _read_revision(text: str) -> Optional[Revision]:
    from apply_opt.model.target import Revision

    names = ("repository", "path", "sha256")
    repository, path, digest = (re.search(rf'^{name} = "([^"\\]+)"$', text, re.MULTILINE) for name in names)
    after = re.findall(r'^"([a-z0-9_+]+)" = "([0-9a-f]{64})"$', text, re.MULTILINE)
    return Revision(repository[1], (), path[1], digest[1], dict(after)) if repository and path and digest else None


@contextlib.contextmanager
def manifest_errors(folder: str) -> Iterator[None]:
    """Name the manifest in ``folder`` where it is not as it should be."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ApplyOptError(
            f"the manifest in {folder} lacks or misspells {error}", "compare it with its neighbours"
        ) from error


def folders(parent: str, manifest: str) -> Iterator[tuple[str, str]]:
    """Name and path of each folder in ``parent`` that has a ``manifest``."""
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else ():
        folder = os.path.join(parent, name)
        if os.path.isfile(os.path.join(folder, manifest)):
            yield name, folder


def read_toml(path: str) -> dict[str, Any]:
    """The tables of a TOML file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(path, "rb") as file:
            return cast("dict[str, Any]", tomllib.load(file))
    except (OSError, ValueError) as error:
        raise ApplyOptError(f"{path} cannot be read: {error}", "compare it with its neighbours") from error
