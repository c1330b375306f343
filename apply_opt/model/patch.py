"""Unified diffs: made with :mod:`difflib`, read with :mod:`unidiff`, applied strictly and never by fuzz.

Patch text is bytes all the way (read as Latin-1, which keeps every byte), so CRLF and any encoding survive.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from apply_opt.errors import ApplyOptError, Conflict
from apply_opt.model.merge import Opcode, opcodes, split


class PatchError(ApplyOptError):
    """The text is not a patch that can be used."""

    kind = "patch"

    def __init__(self, message: str) -> None:
        super().__init__(message, "make it with: apply-opt export NAME > x.patch")


class PatchHunk(NamedTuple):
    """``old`` gives way to ``new`` at line ``start`` (0-based) of the file before the patch."""

    start: int
    old: Sequence[bytes]
    new: Sequence[bytes]


class FilePatch(NamedTuple):
    """The hunks for one file. ``path`` is relative, with forward slashes."""

    path: str
    hunks: Sequence[PatchHunk]


def make(before: bytes, after: bytes, path: str, context: int = 3) -> bytes:
    """A unified diff with ``a/`` and ``b/`` prefixes, for ``patch -p1`` and ``git apply``; empty if nothing differs."""
    old, new = split(before), split(after)
    result = []
    for group in _grouped(opcodes(old, new), context):
        first, last = group[0], group[-1]
        result.append(f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n".encode())
        for tag, a0, a1, b0, b1 in group:
            kept, removed, added = (old[a0:a1], [], []) if tag == "equal" else ([], old[a0:a1], new[b0:b1])
            for sign, lines in ((b" ", kept), (b"-", removed), (b"+", added)):
                result += [_terminated(sign + line) for line in lines]
    end = "\t" if " " in path else ""  # without it GNU patch takes the name to end at the space
    names = f"--- a/{path}{end}\n+++ b/{path}{end}\n".encode("utf-8", "surrogateescape")
    return b"".join([names, *result]) if result else b""


def _grouped(codes: Sequence[Opcode], context: int) -> Iterable[Sequence[Opcode]]:
    """The opcodes in runs whose changes stand close together; :mod:`difflib` knows how."""
    matcher = difflib.SequenceMatcher()
    matcher.opcodes = list(codes)  # type: ignore[attr-defined]  # its own cache, documented nowhere, stable since 2003
    return matcher.get_grouped_opcodes(context) if any(code[0] != "equal" for code in codes) else ()


def _range(start: int, end: int) -> str:
    """A range of lines as GNU diff writes it."""
    length = end - start
    return f"{start + 1 if length else start}" + (f",{length}" if length != 1 else "")


def _terminated(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"


def headers(patch: bytes) -> dict[str, str]:
    """The DEP-3 header fields in front of a patch (https://dep-team.pages.debian.net/deps/dep3/)."""
    fields: dict[str, str] = {}
    name = ""
    for line in patch.decode("utf-8", "replace").splitlines():
        if line.startswith(("--- ", "diff ")):
            break
        match = re.match(r"([A-Za-z][A-Za-z0-9-]*):\s*(.*)", line)
        if match:
            name = match.group(1)
            fields[name] = match.group(2)
        elif name and line.startswith(" "):
            fields[name] += "\n" + line.strip()
        else:
            name = ""
    return fields


def parse(data: bytes, name: str) -> list[FilePatch]:
    """The files that a patch changes. Raises :class:`PatchError` for all that is not a plain, safe unified diff."""
    from unidiff import PatchSet, UnidiffParseError

    text = data.decode("latin-1")
    try:
        patch_set = PatchSet(io.StringIO(text, newline="\n"))
    except (UnidiffParseError, ValueError) as error:
        raise PatchError(f"{name} is not a unified diff: {error}") from error
    files = [_file_patch(file, name) for file in patch_set]
    if not files:
        raise PatchError(f"{name} holds no unified diff (ed scripts and context diffs are not taken)")
    if len({file.path for file in files}) < len(files):
        raise PatchError(f"{name} names one file twice")
    _check_ends(patch_set, text.split("\n"), name)
    return files


def _check_ends(patch_set: Any, lines: Sequence[str], name: str) -> None:
    """Raise where lines of a patch stand behind a hunk that is complete: its counts are wrong, and they would be lost."""
    for hunk in (hunk for file in patch_set for hunk in file):
        number = max((line.diff_line_no or 0 for line in hunk), default=0)
        rest = lines[number + lines[number].startswith("\\")] if number < len(lines) else ""
        if rest.startswith(("+", "-", " ")) and not rest.startswith(("--- ", "-- ")):
            raise PatchError(f"{name} is not a unified diff: a hunk is longer than it says, up to line {number + 1}")


def _file_patch(file: Any, name: str) -> FilePatch:
    source, target = file.source_file, file.target_file
    if "/dev/null" in (source, target) or file.is_rename or file.is_binary_file:
        raise PatchError(f"{name}: files that a patch creates, deletes, renames or holds as binary are not taken")
    if not file:
        raise PatchError(f"{name} holds no change of {target}")
    old, new = (_strip(path, name) for path in (source, target))
    if old != new:
        raise PatchError(f"{name}: the patch names two files, {old} and {new}")
    return FilePatch(new, tuple(_hunk(hunk) for hunk in file))


def _strip(path: str, name: str) -> str:
    """``path`` without its first part, as ``-p1``. Raises for every way out of the folder."""
    path = path.split("\t")[0].rstrip("\r").encode("latin-1").decode("utf-8", "surrogateescape")
    parts = path.split("/")
    unsafe = path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or re.match(r"[A-Za-z]:", path)
    if unsafe or "\0" in path or len(parts) < 2 or "" in parts[1:]:
        raise PatchError(f"{name}: {path!r} is not a path inside the checkout, with the prefix that -p1 takes off")
    return "/".join(parts[1:])


def _hunk(hunk: Any) -> PatchHunk:
    old: list[bytes] = []
    new: list[bytes] = []
    sides = {" ": (old, new), "": (old, new), "-": (old,), "+": (new,)}
    latest: Sequence[list[bytes]] = ()
    for line in hunk:
        if line.line_type in sides:
            latest = sides[line.line_type]
            for side in latest:
                side.append(line.value.encode("latin-1"))
        else:  # "\\ No newline at end of file" speaks of the line before it
            for side in latest:
                side[-1] = side[-1].rstrip(b"\n")
    return PatchHunk(hunk.source_start - bool(old), tuple(old), tuple(new))


def apply(patch: FilePatch, data: bytes, reverse: bool = False) -> bytes:
    """``data`` with the patch made to it (or taken out of it).

    A hunk may stand at another line than the patch says, since lines above it may have been added; but its lines must
    be there exactly, and in one place only. Raises :class:`~apply_opt.errors.Conflict`.
    """
    lines = split(data)
    result: list[bytes] = []
    position = 0
    for number, hunk in enumerate(patch.hunks, 1):
        old, new = (hunk.new, hunk.old) if reverse else (hunk.old, hunk.new)
        start = _place(lines, old, position)
        if start is None:
            raise Conflict(
                f"{patch.path}: hunk {number} of the patch does not stand there, or in more than one place",
                "put its lines back as the patch has them, or take what is left of them out by hand",
            )
        result += [*lines[position:start], *new]
        position = start + len(old)
    return b"".join([*result, *lines[position:]])


def _place(lines: Sequence[bytes], wanted: Sequence[bytes], since: int) -> int | None:
    found = [i for i in range(since, len(lines) - len(wanted) + 1) if list(lines[i : i + len(wanted)]) == list(wanted)]
    return found[0] if wanted and len(found) == 1 else None
