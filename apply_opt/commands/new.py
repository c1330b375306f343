"""``apply-opt new NAME --target T``: start an optimization, with a test that fails until it is written."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Mapping

from apply_opt.commands import Result, add_json_argument
from apply_opt.errors import ApplyOptError, UsageError
from apply_opt.io import files
from apply_opt.io.targets import load_targets
from apply_opt.model.unit import SAFETY

HELP = "start a new optimization in a source tree: manifest, pages, codemod and a failing test"
EPILOG = """examples:
  apply-opt new tokenizer_warm_up --target step_audio_editx --class exact
  python -m pytest tests/codemods/test_tokenizer_warm_up.py     fails until the codemod is written"""

MANIFEST = '''title = "TODO: what it does, in one line"
title_zh = "TODO：一句话说明"
target = "{target}"
safety = "{safety}"
{part}sites = ["todo_name_of_the_place"]
manual = """
TODO: the edit, for somebody who has to make it by hand."""
'''
PAGE = """# {name}

[中文](README.zh-CN.md)

TODO: what it does, and why that is faster. Class `{safety}`.

## What it changes

```diff
-TODO: a line as it is
+TODO: the line as it will be
```

## Why it is safe

TODO: what makes the class hold.

## When not to use it

TODO

## Parameters

None.

## What was measured

Nothing yet, so nothing is claimed.

## How to take it out

```sh
apply-opt revert {name}
```
"""
PAGE_ZH = """# {name}

[English](README.md)

TODO：做什么，为什么更快。类别 `{safety}`。

## 改了什么

```diff
-TODO：原来的行
+TODO：改后的行
```

## 为什么安全

TODO：这一类别成立的原因。

## 什么时候不要用

TODO

## 参数

无。

## 实测数据

还没有测量，所以不作任何声明。

## 如何撤销

```sh
apply-opt revert {name}
```
"""
CODEMOD = '''"""TODO: what this changes, with a link to the primary source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.errors import NoSite
from apply_opt.model.codemod import Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``todo_name_of_the_place``: TODO what it is, and how it is told from what only looks like it."""
    raise NoSite(f"{{source.name}}: {name} is not written yet")


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """TODO: what is put there."""
    return []
'''
TEST = '''"""{name}: what it must leave alone comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from apply_opt.errors import Refused
from apply_opt.io import catalog
from apply_opt.model.codemod import TODO, rewrite_file
from apply_opt.model.parameters import resolve

ROOT = Path(__file__).resolve().parents[2]
UNITS = catalog.load_tree(str(ROOT))
OPTIMIZATION = UNITS.optimizations["{name}"]
TARGET = UNITS.targets[OPTIMIZATION.target]


def rewrite(data: bytes):
    values = resolve(OPTIMIZATION.parameters, {{}}, OPTIMIZATION.name)
    return rewrite_file(catalog.codemod(OPTIMIZATION), data, "file.py", OPTIMIZATION.sites, values)


def reference() -> bytes:
    return Path(TARGET.folder, "reference", TARGET.part(OPTIMIZATION.part).files[0]).read_bytes()


@pytest.mark.parametrize("text", [b"", b"x = 1\\n"])  # add: look-alikes, already done, a version without the site
def test_leaves_alone(text: bytes) -> None:
    with pytest.raises(Refused):
        rewrite(text)


def test_lands_on_the_reference() -> None:
    result = rewrite(reference())
    assert [site.state for site in result.sites] == [TODO] * len(OPTIMIZATION.sites)
    assert result.data is not None
    assert b"the line that it writes" in result.data


def test_a_second_time_changes_nothing() -> None:
    once = rewrite(reference()).data
    assert once is not None
    assert rewrite(once).data is None
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("name", metavar="NAME", help="its name everywhere: folder, codemod, test, command line")
    parser.add_argument("--target", metavar="TARGET", required=True, help="the target it is for (target_repos/TARGET)")
    parser.add_argument("--part", metavar="PART", help="the part of it that is changed (default: the main file)")
    parser.add_argument(
        "--class", dest="safety", choices=SAFETY, default="exact", help="its safety class (default: exact)"
    )
    parser.add_argument(
        "--root", metavar="DIR", default=".", help="the source tree of apply-opt or of a pack (default: here)"
    )
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> Result:
    """Write all its files, or none."""
    name, root = arguments.name, os.path.abspath(arguments.root)
    _check(name, root, arguments.target, arguments.part)
    part = f'part = "{arguments.part}"\n' if arguments.part else ""
    words = {"name": name, "target": arguments.target, "safety": arguments.safety, "part": part}
    texts = {
        f"patches/{name}/optimization.toml": MANIFEST,
        f"patches/{name}/README.md": PAGE,
        f"patches/{name}/README.zh-CN.md": PAGE_ZH,
        f"codemods/{name}.py": CODEMOD,
        f"tests/codemods/test_{name}.py": TEST,
    }
    there = [path for path in texts if os.path.lexists(os.path.join(root, path))]
    if there:
        raise ApplyOptError(f"{', '.join(there)} is already there", "choose another name")
    _write(root, {path: text.format(**words).encode() for path, text in texts.items()})
    lines = [("green", f"wrote {path}") for path in texts]
    test = f"python -m pytest tests/codemods/test_{name}.py"
    lines.append(("dim", f"next: {test}   (needs pip install -e '.[test]'; CONTRIBUTING.md says how to go on)"))
    return Result(lines, {"name": name, "files": list(texts)})


def _check(name: str, root: str, target: str, part: str | None) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise UsageError(
            f"{name!r} is not a name: lower-case words with _ between them", "for example: tokenizer_warm_up"
        )
    if not all(os.path.isdir(os.path.join(root, part)) for part in ("patches", "codemods", "target_repos")):
        raise UsageError(
            f"{root} is not a source tree: it has no patches/, codemods/ and target_repos/",
            "git clone apply-opt and go there, or name the tree: --root DIR",
        )
    targets = load_targets(root)
    if target not in targets:
        known = f"targets: {', '.join(targets)}" if targets else f"write {root}/target_repos/{target}/target.toml first"
        raise UsageError(f"there is no target called {target} in {root}", known)
    parts = targets[target].parts
    if part and part not in parts:
        raise UsageError(f"{target} has no part called {part}", f"its parts: {', '.join(parts) or 'none'}")


def _write(root: str, texts: Mapping[str, bytes]) -> None:
    written: list[str] = []
    try:
        for name, data in texts.items():
            path = os.path.join(root, name)
            files.make_folder(os.path.dirname(path))
            files.write_through(path, data)
            written.append(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            for path in written:
                files.remove(path)
                files.remove_folder(os.path.dirname(path))
        raise ApplyOptError(
            f"nothing was written: {error.strerror} ({error.filename or root})", "make room or give access"
        ) from error
