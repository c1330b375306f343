"""The targets that there are, and the reading of manifests. Apart from the catalog of units, which a quick look does not need."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from apply_opt.errors import ApplyOptError
from apply_opt.io import files

if TYPE_CHECKING:
    from apply_opt.model.target import Target


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


def known_names(root: str, digest: str) -> set[str]:
    """The optimizations whose result for the file with this sha256 is recorded in one of the targets of a root.

    Looked up in the text: the parser for TOML alone takes a tenth of the time that ``status`` has. Where a manifest is
    written in another way than ours, nothing is found, and a slower look finds the same.
    """
    for _, folder in folders(os.path.join(root, "target_repos"), "target.toml"):
        text = (files.read(os.path.join(folder, "target.toml")) or b"").decode("utf-8", "replace")
        _, found, rest = text.partition(f'\nsha256 = "{digest}"\n')
        if found:
            keys = re.findall(r'^"([a-z0-9_+]+)" = "[0-9a-f]{64}"$', rest.partition("[[revision]]")[0], re.MULTILINE)
            return {name for key in keys for name in key.split("+")}
    return set()


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
