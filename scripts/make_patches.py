#!/usr/bin/env python3
"""Write the frozen patches and the known hashes anew, from the codemods.

    python scripts/make_patches.py                              for the reference trees
    python scripts/make_patches.py --upstream TREE [TREE …]     for upstream's trees too: git clones, and unpacked wheels
    python scripts/make_patches.py --upstream TREE --target T   only for upstream's trees of one target
    python scripts/make_patches.py --check                      write nothing; exit 1 where something would change

A patch for an upstream tree has one line of context, and everything that is not context or in a published note is ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from apply_opt.commands.export import header
from apply_opt.commands.planning import Texts
from apply_opt.errors import NoSite
from apply_opt.io import catalog
from apply_opt.io.targets import data_root, read_toml
from apply_opt.model import patch
from apply_opt.model.digest import sha256
from apply_opt.model.parameters import resolve
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED, Outcome, plan_one
from apply_opt.model.target import Part
from apply_opt.model.unit import Optimization

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ALL_ORDERS = 3
"""Of a bundle of up to so many members, the result of every order is recorded; of a larger one, that of its own."""


class Writer:
    """Writes files whose content differs, or only notes them."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.changed: list[str] = []

    def write(self, path: str, data: bytes) -> None:
        """Write ``data`` to ``path`` if that changes it."""
        old = b""
        if os.path.exists(path):
            with open(path, "rb") as file:
                old = file.read()
        if old != data:
            self.changed.append(os.path.relpath(path, ROOT))
            if not self.check:
                with open(path, "wb") as file:
                    file.write(data)


def plan_all(
    units: catalog.Catalog, names: Sequence[str], texts: Mapping[str, bytes], is_partial: bool = False
) -> tuple[list[Outcome], dict[str, Texts]]:
    """Each optimization at its defaults on what the one before it made.

    Raises where one does not land; with ``is_partial``, what has no site or is not needed is left out, as in a bundle.
    ``texts`` are the files at their usual places; one alone may be at another, and is all that there is. Gives the outcomes, and
    those files that change, before and after.
    """
    now = dict(texts)
    outcomes = []
    for optimization in (units.optimizations[name] for name in names):
        values = resolve(optimization.parameters, {}, optimization.name)
        path = next((path for path in place_of(units, optimization).files if path in now), next(iter(now)))
        outcome = plan_one(optimization, catalog.codemod(optimization), now[path], path, values)
        if is_partial and (outcome.kind in (NOT_NEEDED, ALREADY) or isinstance(outcome.error, NoSite)):
            continue
        if outcome.kind != PLANNED:
            raise SystemExit(f"{optimization.name} does not land on {path}: {outcome.message}")
        now[path] = outcome.after
        outcomes.append(outcome)
    return outcomes, {path: (data, now[path]) for path, data in texts.items() if data != now[path]}


def place_of(units: catalog.Catalog, optimization: Optimization) -> Part:
    """The part of its target that an optimization changes."""
    return units.targets[optimization.target].part(optimization.part)


def patch_text(
    outcomes: Sequence[Outcome], texts: Mapping[str, Texts], origin: str, context: int, notes: str, old_path: str
) -> bytes:
    """The patch with its DEP-3 header; its date moves only with its content."""
    date = ""
    if os.path.exists(old_path):
        with open(old_path, "rb") as file:
            date = patch.headers(file.read()).get("Last-Update", "")
    body = b"".join(patch.make(before, after, path, context) for path, (before, after) in texts.items())
    sides = list(texts.values())
    text = header(outcomes, origin, sides, notes.strip(), date) + body
    if date and os.path.exists(old_path):
        with open(old_path, "rb") as file:
            if not file.read().endswith(body):
                text = header(outcomes, origin, sides, notes.strip()) + body
    return text


def reference_patches(units: catalog.Catalog, writer: Writer) -> None:
    """``patches/<optimization>/reference.patch``: for the tree with what the optimization needs in it."""
    for optimization in units.optimizations.values():
        target = units.targets[optimization.target]
        *required, _ = units.with_required([optimization.name])
        files = {place_of(units, units.optimizations[n]).files[0]: b"" for n in (*required, optimization.name)}
        for name in files:
            with open(os.path.join(target.folder, "reference", name), "rb") as file:
                files[name] = file.read()
        _, first = plan_all(units, required, files)
        files.update({name: after for name, (_, after) in first.items()})
        out = os.path.join(optimization.folder, "reference.patch")
        outcomes, texts = plan_all(units, [optimization.name], files)
        origin = f"target_repos/{target.name}/reference" + "".join(f" + {name}" for name in required)
        writer.write(out, patch_text(outcomes, texts, origin, 3, "", out))


def upstream_patches(units: catalog.Catalog, targets: Sequence[str], trees: Sequence[str], writer: Writer) -> None:
    """The patches named in the ``target.toml`` of each of ``targets``, and the hashes of its known revisions."""
    for target in (units.targets[name] for name in targets):
        path = os.path.join(target.folder, "target.toml")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        table = read_toml(path)
        revisions = [_measured(units, target.name, revision, trees) for revision in table.get("revision", ())]
        head = re.split(r"(?m)^\[\[revision\]\]", text)[0].rstrip() + "\n"
        writer.write(path, (head + "".join(_toml(revision) for revision in revisions)).encode())
        for entry in table.get("patch", ()):
            first = table["revision"][0]
            beside = [r for r in table["revision"] if r["repository"] == first["repository"]]
            beside = [r for r in beside if first["commits"][0] in r["commits"]]
            out = os.path.join(ROOT, "patches", f"{entry['name']}.patch")
            outcomes, texts = plan_all(units, entry["optimizations"], {r["path"]: _show(trees, r) for r in beside})
            origin = f"{first['repository']} {' '.join(first['commits'])}"
            writer.write(out, patch_text(outcomes, texts, origin, 1, entry["notes"], out))


def _measured(units: catalog.Catalog, target: str, revision: dict[str, Any], trees: Sequence[str]) -> dict[str, Any]:
    """The revision with its hash, and the hash after each of the :func:`orders`."""
    path, data = revision["path"], _show(trees, revision)
    after = {}
    for order, is_partial in orders(units, target, path):
        outcomes, texts = plan_all(units, order, {path: data}, is_partial)
        if outcomes:
            after["+".join(outcome.name for outcome in outcomes)] = sha256(texts[path][1])
    return {**revision, "sha256": sha256(data), "after": after}


def orders(units: catalog.Catalog, target: str, path: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """What hashes of a file are recorded after, and whether some of it may be left out.

    Each unit with what it needs of the same file (nothing, where that revision needs no change), and what a bundle comes to.
    A file at no usual place is a port, with all units' places in it.
    """
    own = [o for o in units.optimizations.values() if o.target == target]
    names = [o.name for o in own if path in place_of(units, o).files] or [o.name for o in own]
    yield from ((tuple(n for n in units.with_required([name]) if n in names), True) for name in names)
    for bundle in (b for b in units.bundles.values() if b.target == target):
        members = tuple(name for name in bundle.optimizations if name in names)
        if len(members) > ALL_ORDERS:
            yield members, True
            continue
        for count in range(2, len(members) + 1):
            every = itertools.permutations(sorted(members), count)
            yield from ((order, False) for order in every if units.with_required(order) == [*order])


def _show(trees: Sequence[str], revision: dict[str, Any]) -> bytes:
    """The file of a known revision, the same at all of its commits."""
    found = set()
    for commit in revision["commits"]:
        texts = (_read(place, revision["repository"], commit, revision["path"]) for place in trees)
        text = next((text for text in texts if text is not None), None)
        if text is None:
            raise SystemExit(f"none of {trees} has {revision['path']} of {revision['repository']} at {commit}")
        found.add(text)
    if len(found) > 1:
        raise SystemExit(f"{revision['path']} differs between {revision['commits']}")
    return found.pop()


def _read(place: str, repository: str, commit: str, path: str) -> Optional[bytes]:
    """A file of a git clone at a commit; or of an unpacked wheel, where ``repository`` is a package and the commit a version."""
    if os.path.isdir(os.path.join(place, f"{repository}-{commit}.dist-info")):
        with open(os.path.join(place, path), "rb") as file:
            return file.read()
    result = subprocess.run(["git", "-C", place, "show", f"{commit}:{path}"], capture_output=True, check=False)
    return result.stdout if result.returncode == 0 else None


def _toml(revision: dict[str, Any]) -> str:
    lines = ["", "[[revision]]"]
    lines += [f"{key} = {json.dumps(revision[key])}" for key in ("repository", "commits", "path", "sha256")]
    lines += ["[revision.after]", *(f'"{key}" = "{value}"' for key, value in revision["after"].items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--upstream", nargs="+", metavar="TREE", default=[], help="upstream's trees: local git clones, unpacked wheels"
    )
    parser.add_argument("--target", metavar="NAME", help="upstream's trees of this target only")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    if data_root() != ROOT:
        raise SystemExit(f"this environment's apply-opt is that of {data_root()}: pip install --editable {ROOT}")
    writer = Writer(arguments.check)
    units = catalog.load(packs=False)
    reference_patches(units, writer)
    if arguments.target not in (None, *units.targets):
        parser.error(f"no target is called {arguments.target}: {', '.join(units.targets)}")
    if arguments.upstream:
        targets = [arguments.target] if arguments.target else list(units.targets)
        upstream_patches(units, targets, arguments.upstream, writer)
    for path in writer.changed:
        print(("would change " if arguments.check else "wrote ") + path)
    return int(arguments.check and bool(writer.changed))


if __name__ == "__main__":
    sys.exit(main())
