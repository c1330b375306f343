"""A made-up target of two files, with a package that brings its optimizations: what the tests of parts work on."""

from __future__ import annotations

import shutil
from pathlib import Path

from support import write

TARGET = """
title = "Copy"
upstream = ["them/copy"]
licence = "MIT"
[recognise]
files = ["copy_all.py"]
markers = ["def copy_all("]
[part.writer]
files = ["lib/writer.py"]
markers = ["def write_all("]
any_markers = ["file.write(", "file.writelines("]
"""
UNIT = """
title = "{name}"
target = "copy"
safety = "{safety}"
sites = ["line"]
manual = "by hand: {name}"
"""
CODEMOD = """
from ._swap import swap
find, edit = swap({old!r}, {new!r})
"""
SWAP = '''
"""A codemod that puts one line in the place of another."""
from apply_opt.errors import Ambiguous, NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.source import Edit


def swap(old, new):
    def find(source, parameters):
        lines = [line.strip() for line in source.lines]
        found = [number for number, line in enumerate(lines, 1) if line in (old, new)]
        if len(found) > 1:
            raise Ambiguous(f"{source.name}: {len(found)} lines")
        if not found:
            raise NoSite(f"{source.name}: no line")
        return [Site("line", found[0], TODO if lines[found[0] - 1] == old else OURS)]

    def edit(source, parameters, sites):
        line = sites[0].line
        return [Edit(line, line, source.lines[line - 1].replace(old, new))]

    return find, edit
'''
MAIN, WRITER = "copy_all.py", "lib/writer.py"
READ, WRITE, FLUSH, SORT = "copy_read", "copy_write", "copy_flush", "copy_sort"
BOTH = "copy_both"
# Each unit: the part, the line and what gives its place, and more of its manifest.
UNITS = {
    READ: ("", "data = b''.join(iter(file.readline, b''))", "data = file.read()", ""),
    WRITE: ("writer", "file.write(bytes([byte]))", "file.write(data[byte])", ""),
    FLUSH: ("writer", "file.flush()", "pass", f'requires = ["{READ}"]\n'),
    SORT: ("writer", "order = range(len(data))", "order = sorted(data)", f'conflicts = ["{READ}"]\n'),
}
PLAIN = {
    MAIN: b"from lib.writer import write_all\n\n\ndef copy_all(file, other):\n"
    b"    data = b''.join(iter(file.readline, b''))\n    write_all(data, other)\n",
    WRITER: b"def write_all(data, file):\n    order = range(len(data))\n    for byte in order:\n"
    b"        file.write(bytes([byte]))\n    file.flush()\n",
}


def changed(path: str, *names: str, data: bytes | None = None) -> bytes:
    """A file after ``names``."""
    text = PLAIN[path] if data is None else data
    for name in names:
        _, old, new, _ = UNITS[name]
        assert old.encode() in text
        text = text.replace(old.encode(), new.encode())
    return text


def install(site: Path) -> Path:
    """The package, as pip would install it to ``site``; gives its folder."""
    files: dict[str, str | bytes] = {
        "copy_pack/__init__.py": "",
        "copy_pack/codemods/_swap.py": SWAP,
        "copy_pack/target_repos/copy/target.toml": TARGET,
        f"copy_pack/patches/{BOTH}/bundle.toml": f'title = "both"\ntarget = "copy"\noptimizations = ["{READ}", "{WRITE}"]\n',
        "copy_pack-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: copy-pack\nVersion: 1.0\n",
        "copy_pack-1.0.dist-info/entry_points.txt": "[apply_opt.packs]\ncopy = copy_pack\n",
    }
    for name, (part, old, new, more) in UNITS.items():
        manifest = UNIT.format(name=name, safety="exact") + more + (f'part = "{part}"\n' if part else "")
        files[f"copy_pack/patches/{name}/optimization.toml"] = manifest
        files[f"copy_pack/codemods/{name}.py"] = CODEMOD.format(old=old, new=new)
    write(site, files)
    return site / "copy_pack"


def tree(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """A checkout of the target in ``folder``, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    return write(folder, dict(PLAIN if files is None else files))
