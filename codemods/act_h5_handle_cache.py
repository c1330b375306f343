"""Keep the files of episodes open from one item to the next, and in each the data sets and attributes that were looked up.

ACT's data set opens an episode's HDF5 file for each item and closes it again. HDF5 then reads what it knows about the file anew
each time: superblock, groups, the place of each data set (https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from apply_opt.errors import Ambiguous, NoSite, PartlyApplied
from apply_opt.model.codemod import OURS, THEIRS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Function, Source

from ._episodes import item_methods, outlives
from ._helpers import (
    are_used,
    check_imported_above,
    insert_above,
    meant,
    refuse_compiled,
    refuse_other_imports,
    refuse_taken,
)
from ._lines import all_respelled, text_of
from ._scopes import argument, calls, has_star, position

SITE, HELPER = "open", "_kept_open"
OTHERS = (
    "_KeptFile",
    "_KeptAttributes",
    "_state_on_disk",
    "_close_other_names",
    "_close_kept_files",
    "_leave_to_parent",
)
NAMES = ("_KEPT_FILES", "_OF_PARENT")
HELPER_TEXT = '''
import contextlib
import os
from collections import OrderedDict
from time import time as _clock_time

from h5py import AttributeManager

_KEPT_FILES, _OF_PARENT = OrderedDict(), []


@contextlib.contextmanager
def _kept_open(path, most=MOST):
    """`H5FILE(path, "r")` for a `with` that leaves the file open for the next time; the `most` files that were used last stay so.

    A file that is another one than before, has changed or is gone is opened anew: what that raises is raised. What is in use belongs
    to one thread; after an exception it is closed. Nothing is handed on to other processes.
    """
    state, is_old = _state_on_disk(path)
    file, known = _KEPT_FILES.pop(path, (None, None)) if isinstance(path, str) else (None, None)
    if file is not None and known != state:
        file.close()
        file = None
    if file is None:
        _close_other_names(state)
        file = _KeptFile(path, "r", rdcc_nbytes=2**16)  # no room for the chunks of images: none is read twice
    is_kept = False
    try:
        yield file
        is_kept = bool(file) and is_old
    finally:
        if not is_kept or _KEPT_FILES.setdefault(path, (file, state))[0] is not file:  # another thread had it too
            file.close()
        _close_kept_files(most)


class _KeptFile(H5FILE):
    """A file that is read, in which a data set is looked up once, the first 64; one that has to do with other files is, each time."""

    def __getitem__(self, name):
        known = vars(self).setdefault("known", {}) if isinstance(name, str) else {}
        if name not in known:
            found = super().__getitem__(name)
            is_others = getattr(found, "is_virtual", True) or found.external or found.file != self
            if is_others or len(known) == 64:
                return found
            known[name] = found
        return known[name]

    @property
    def attrs(self):
        return vars(self).setdefault("attributes", _KeptAttributes(self))


class _KeptAttributes(AttributeManager):
    """Attributes of a file that is read; a truth value, number or text is read once, the first 64."""

    def __getitem__(self, name):
        known = vars(self).setdefault("known", {}) if isinstance(name, str) else {}
        if name not in known:
            found = super().__getitem__(name)
            is_fixed = isinstance(found, str) or (getattr(found, "ndim", 1) == 0 and found.dtype.kind in "biuf")
            if not is_fixed or len(known) == 64:
                return found
            known[name] = found
        return known[name]


def _state_on_disk(path):
    """What tells a file from another one and from a later state of itself, if that can be told, and whether the next one will be told.

    It may not be of a file that was changed just now: time stamps are coarse, and the next change may get the same one.
    """
    try:
        found = os.stat(path) if isinstance(path, str) else None
    except (OSError, ValueError):
        found = None
    if found is None:
        return None, False
    state = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return state, _clock_time() - max(found.st_mtime, found.st_ctime) >= 2


def _close_other_names(state):
    """Close a file that is kept under another name: HDF5 would go on showing what it knows of it."""
    for path, (_, known) in list(_KEPT_FILES.items()):
        if state is not None and known[:2] == state[:2]:
            with contextlib.suppress(KeyError):  # another thread was here
                _KEPT_FILES.pop(path)[0].close()


def _close_kept_files(most=0):
    """Close all but the last `most` files; no more than a quarter of what this process may have open is kept."""
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = most if limit == resource.RLIM_INFINITY else min(most, limit // 4)
    while len(_KEPT_FILES) > most:
        with contextlib.suppress(KeyError):  # another thread was here
            _KEPT_FILES.popitem(last=False)[1][0].close()


def _leave_to_parent():
    """In a new process: what is still open is the parent's, neither used nor closed; with it the parent's lock would go."""
    _OF_PARENT.append(list(_KEPT_FILES.values()))
    _KEPT_FILES.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_kept_files, after_in_child=_leave_to_parent)
'''


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``open``: the first ``with`` that opens a file for an item."""
    uses, opens = calls(source, HELPER), _opens(source)
    if are_used(source, HELPER, OTHERS, uses):
        if opens:
            raise PartlyApplied(
                f"{source.name}:{opens[0].lineno} is partly applied: a file is opened for an item without {HELPER}",
                "take the part that is there out by hand, then apply again",
            )
        return [Site(SITE, uses[0].lineno, OURS)]
    refuse_taken(source, *NAMES)
    refuse_other_imports(source, HELPER_TEXT)
    if not opens:
        raise NoSite(f"{source.name}: no item of a data set opens a file with h5py.File")
    theirs = [call for call in opens if _is_kept(source, call)]
    if len(theirs) == len(opens):
        return [Site(SITE, theirs[0].lineno, THEIRS, ast.unparse(source.statement(theirs[0])))]
    for call in opens:
        _check(source, call)
    _check_others(source, opens)
    return [Site(SITE, opens[0].lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the first class, and asked where files are opened."""
    opens = _opens(source)
    changes: dict[ast.expr, str] = {call: f"{HELPER}({text_of(source, _path(call))})" for call in opens}
    function = text_of(source, opens[0].func)
    helper = HELPER_TEXT.replace("MOST", str(parameters["files"]), 1).replace("H5FILE", function)
    return [insert_above(source, opens[0], helper), *all_respelled(source, changes)]


def _opens(source: Source) -> list[ast.Call]:
    """What opens a file in methods that make items, in order."""
    nodes = {n for method in item_methods(source) for n in ast.walk(method) if isinstance(n, ast.Call)}
    return sorted((n for n in nodes if meant(source, n.func) == "h5py.File"), key=position)


def _path(call: ast.Call) -> ast.expr:
    """Which file is opened."""
    path = argument(call, "name", 0)
    assert path is not None
    return path


def _is_kept(source: Source, call: ast.Call) -> bool:
    """Whether the author keeps the file: ``self.file = h5py.File(…)``, ``self.files[path] = …``."""
    statement = source.statement(call)
    return isinstance(statement, ast.Assign) and any(
        isinstance(n, ast.Attribute) for target in statement.targets for n in ast.walk(target)
    )


def _check(source: Source, call: ast.Call) -> None:
    """Raise where more is asked for than to read a file in a ``with``, or where something of it may be kept."""
    where, item, function = f"{source.name}:{call.lineno}", source.ancestors(call)[0], source.function(call)
    check_imported_above(source, call)
    mode = argument(call, "mode", 1)
    is_plain = len(call.args) + len(call.keywords) == 2 and not has_star(call) and argument(call, "name", 0) is not None
    if not is_plain or not isinstance(mode, ast.Constant) or mode.value != "r":
        raise Ambiguous(f"{where}: the file is opened for more than reading, or with settings: {ast.unparse(call)}")
    block = source.statement(call)
    if not isinstance(item, ast.withitem) or not isinstance(block, ast.With) or function is None:
        raise Ambiguous(f"{where}: the file is opened without a with, which says how long it is needed")
    if not isinstance(item.optional_vars, ast.Name):
        raise Ambiguous(f"{where}: the file has no name in the with")
    refuse_compiled(source, function)
    _check_stays(source, block, item.optional_vars, function)


def _check_others(source: Source, opens: Sequence[ast.Call]) -> None:
    """Raise where the file opens episodes in ways that HDF5 refuses while they are open: to change them, with other locks."""
    for call in calls(source, "File"):
        if meant(source, call.func) == "h5py.File" and call not in opens:
            mode = argument(call, "mode", 1)
            settings = {keyword.arg for keyword in call.keywords} & {"locking", "swmr", "driver"}
            if settings or (isinstance(mode, ast.Constant) and mode.value in ("r+", "a")):
                raise Ambiguous(f"{source.name}:{call.lineno}: a file that is kept open could not be opened there")


def _check_stays(source: Source, block: ast.With, name: ast.Name, function: Function) -> None:
    """Raise where the file, or what reads from it, may be used behind the ``with``, where it was closed so far."""
    inner = {n for statement in block.body for n in ast.walk(statement)}
    for node in inner:
        is_other = isinstance(node, ast.Name) and node.id == name.id and not isinstance(node.ctx, ast.Load)
        if is_other or isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await)):
            raise Ambiguous(f"{source.name}:{node.lineno}: {name.id} may be another file there")  # type: ignore[attr-defined]
    blocks = [n for n in ast.walk(function) if isinstance(n, ast.With) and n is not block and _opens_as(n, name.id)]
    for node in outlives(source, block, name.id, function):
        if not any(other in source.ancestors(node) for other in blocks):
            what = ast.unparse(source.statement(node)).splitlines()[0][:80]
            raise Ambiguous(f"{source.name}:{node.lineno}: what is open as {name.id} may be kept: {what}")


def _opens_as(block: ast.With, name: str) -> bool:
    return any(isinstance(i.optional_vars, ast.Name) and i.optional_vars.id == name for i in block.items)
