"""The units that there are: found by listing folders. No list of them is kept anywhere.

A root is a folder with ``patches/``, ``codemods/`` and ``target_repos/`` in it. Ours comes first; a package can bring
another with an entry point in the group ``apply_opt.packs`` that names a module whose folder is laid out in the same way.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Union, cast

from apply_opt.errors import ApplyOptError, UsageError
from apply_opt.io.targets import data_root, folders, load_targets, manifest_errors, read_toml
from apply_opt.model.target import MAIN, Target
from apply_opt.model.unit import Bundle, Optimization, parse_bundle, parse_optimization

if TYPE_CHECKING:
    from apply_opt.model.codemod import Codemod

PACK_GROUP = "apply_opt.packs"
CODEMOD_PACKAGE = "apply_opt_codemods"
Unit = Union[Optimization, Bundle]


class Catalog(NamedTuple):
    """Everything that can be applied."""

    targets: dict[str, Target]
    optimizations: dict[str, Optimization]
    bundles: dict[str, Bundle]

    def unit(self, name: str) -> Unit:
        """The optimization or bundle called ``name``. Raises :class:`UsageError` with the nearest name."""
        found = self.optimizations.get(name) or self.bundles.get(name)
        if found is None:
            import difflib

            close = difflib.get_close_matches(name, [*self.optimizations, *self.bundles], 1, 0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"there is no optimization or bundle called {name}", f"{hint}apply-opt list --all shows what there is"
            )
        return found

    def members(self, unit: Unit) -> list[Optimization]:
        """The optimizations that ``unit`` stands for, in the order in which they are applied."""
        if isinstance(unit, Optimization):
            return [unit]
        return [self.optimizations[name] for name in unit.optimizations]

    def with_required(self, names: Sequence[str]) -> list[str]:
        """The optimizations ``names`` and all that they need, each after what it needs."""
        found: list[str] = []
        for name in names:
            chain = [*self.with_required(self.optimizations[name].requires), name]
            found += [other for other in chain if other not in found]
        return found


@functools.cache
def load(packs: bool = True) -> Catalog:
    """All units. ``packs=False`` looks at our own only, which is quicker."""
    catalog = Catalog({}, {}, {})
    for root in [data_root(), *(_pack_roots() if packs else ())]:
        _load_root(root, catalog)
    return _checked(catalog)


def load_tree(root: str) -> Catalog:
    """Our own units and those of a source tree, which need not be installed."""
    catalog = Catalog({}, {}, {})
    for folder in dict.fromkeys([data_root(), os.path.abspath(root)]):
        _load_root(folder, catalog)
    return _checked(catalog)


def _checked(catalog: Catalog) -> Catalog:
    units: list[Unit] = [*catalog.optimizations.values(), *catalog.bundles.values()]
    for unit in units:
        others = unit.optimizations if isinstance(unit, Bundle) else (*unit.requires, *unit.conflicts)
        missing = [unit.target] if unit.target not in catalog.targets else []
        missing += [name for name in others if name not in catalog.optimizations]
        if isinstance(unit, Optimization) and not missing:
            parts = (MAIN, *catalog.targets[unit.target].parts)
            missing += [f"the part {unit.part}"] * (unit.part not in parts)
        if missing:
            raise ApplyOptError(
                f"the manifest in {unit.folder} names {missing[0]}, which is not there",
                "compare it with its neighbours",
            )
    return catalog


def load_for(names: Sequence[str]) -> Catalog:
    """Our own units where ``names`` are all ours; all units where not. To look for packs costs more than most commands."""
    ours = load(packs=False)
    return ours if all(name in ours.optimizations or name in ours.bundles for name in names) else load()


def _load_root(root: str, catalog: Catalog) -> None:
    for name, target in load_targets(root).items():
        if catalog.targets.setdefault(name, target) is not target:
            _refuse(name, catalog.targets[name].folder, target.folder)
    patches = os.path.join(root, "patches")
    for name, folder in folders(patches, "optimization.toml"):
        with manifest_errors(folder):
            table = read_toml(os.path.join(folder, "optimization.toml"))
            codemod = _codemod_file(root, f"_{table['codemod']}.py" if "codemod" in table else f"{name}.py")
            _refuse_second(catalog, name, folder)
            catalog.optimizations[name] = parse_optimization(name, folder, codemod, table)
    for name, folder in folders(patches, "bundle.toml"):
        with manifest_errors(folder):
            _refuse_second(catalog, name, folder)
            catalog.bundles[name] = parse_bundle(name, folder, read_toml(os.path.join(folder, "bundle.toml")))


def _codemod_file(root: str, name: str) -> str:
    """A codemod of ``root``; one that several optimizations share may be of ours."""
    own, ours = (os.path.join(folder, "codemods", name) for folder in (root, data_root()))
    return ours if name.startswith("_") and not os.path.isfile(own) else own


def _refuse_second(catalog: Catalog, name: str, folder: str) -> None:
    there = catalog.optimizations.get(name) or catalog.bundles.get(name)
    if there is not None:
        _refuse(name, there.folder, folder)


def _refuse(name: str, one: str, other: str) -> NoReturn:
    raise ApplyOptError(f"two units are called {name}: {one} and {other}", "uninstall or rename one of them")


def _pack_roots() -> Sequence[str]:
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    roots = []
    for point in entry_points(group=PACK_GROUP):
        try:
            spec = find_spec(point.value)
        except Exception:  # a name with dots imports what it is in, and there anything may happen
            spec = None
        locations = list(spec.submodule_search_locations or ()) if spec else []
        if not locations:
            raise ApplyOptError(
                f"the pack {point.name} names {point.value}, which is not a package", f"pip uninstall {point.name}"
            )
        roots.append(locations[0])
    return roots


def codemod(optimization: Optimization) -> Codemod:
    """The module behind ``optimization``. Modules in one folder share a package, so that they can share matchers."""
    import importlib
    import types

    folder = os.path.dirname(optimization.codemod)
    package = (
        CODEMOD_PACKAGE if folder == os.path.join(data_root(), "codemods") else f"{CODEMOD_PACKAGE}_{abs(hash(folder))}"
    )
    if package not in sys.modules:
        module = types.ModuleType(package)
        module.__path__ = [folder]
        sys.modules[package] = module
    try:
        name = os.path.basename(optimization.codemod).removesuffix(".py")
        module = importlib.import_module(f"{package}.{name}")
        return cast("Codemod", module if optimization.rules is None else module.from_manifest(optimization.rules))
    except Exception as error:  # anything may happen in a pack's module, and it is not our bug
        raise ApplyOptError(
            f"the codemod of {optimization.name} cannot be loaded: {error!r}", f"mend it: {optimization.codemod}"
        ) from error


def page(unit: Unit, language: str = "en") -> str:
    """The unit's page (Markdown), in ``language`` where it is written in it."""
    for name in (f"README.{language}.md", "README.md"):
        path = os.path.join(unit.folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return file.read()
    return ""
