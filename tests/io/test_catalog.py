"""The units that there are, from our own folders and from packs; and what is said of manifests that are damaged."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import QUICK, ROOT, Ran, write

from apply_opt.errors import ApplyOptError, UsageError
from apply_opt.io import catalog, targets
from apply_opt.model.unit import Bundle, Optimization

Run = Callable[..., Ran]

TARGET = """
title = "Reader"
upstream = ["them/reader"]
licence = "MIT"
[recognise]
files = ["reader.py"]
markers = ["def read_all("]
"""
UNIT = """
title = "Read it at once"
target = "reader"
safety = "exact"
sites = ["loop"]
manual = "return file.read()"
"""
CODEMOD = '''
"""One read instead of many."""
from apply_opt.errors import NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.source import Edit
from ._shared import OLD, NEW

def find(source, parameters):
    for number, line in enumerate(source.lines, 1):
        if line.strip() in (OLD, NEW):
            return [Site("loop", number, TODO if line.strip() == OLD else OURS)]
    raise NoSite(f"{source.name}: no loop")

def edit(source, parameters, sites):
    line = sites[0].line
    return [Edit(line, line, source.lines[line - 1].replace(OLD, NEW))]
'''
SHARED = "OLD = \"return b''.join(iter(file.readline, b''))\"\nNEW = \"return file.read()\"\n"
READER = b"def read_all(file):\n    return b''.join(iter(file.readline, b''))\n"


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_catalog: None) -> Iterator[Path]:
    """A package with a unit of its own, installed as pip would."""
    site = write(
        tmp_path / "site",
        {
            "reader_pack/__init__.py": "raise AssertionError('to find a pack is not to run it')",
            "reader_pack/target_repos/reader/target.toml": TARGET,
            "reader_pack/patches/reader_at_once/optimization.toml": UNIT,
            "reader_pack/codemods/reader_at_once.py": CODEMOD,
            "reader_pack/codemods/_shared.py": SHARED,
            "reader_pack-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: reader-pack\nVersion: 1.0\n",
            "reader_pack-1.0.dist-info/entry_points.txt": "[apply_opt.packs]\nreader = reader_pack\n",
        },
    )
    monkeypatch.syspath_prepend(str(site))
    yield site / "reader_pack"
    for name in [name for name in sys.modules if name.startswith((f"{catalog.CODEMOD_PACKAGE}_", "reader_pack"))]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    return write(tmp_path / "reader", {"reader.py": READER})


def test_a_pack_is_found_and_used_like_our_own(pack: Path, reader: Path, run: Run) -> None:
    assert "reader_at_once" in run("list", cwd=reader).out
    document = json.loads(run("list", "--json", cwd=reader).out)
    assert {row["name"]: row["state"] for row in document["optimizations"]}["reader_at_once"] == "applicable"
    assert (
        json.loads(run("status", "--json", cwd=reader).out)["optimizations"]["reader_at_once"]["state"] == "not applied"
    )
    assert "+    return file.read()" in run("diff", "reader_at_once", cwd=reader).out
    assert run("reader_at_once", cwd=reader).code == 0
    assert (reader / "reader.py").read_bytes() == b"def read_all(file):\n    return file.read()\n"
    assert run("revert", cwd=reader).code == 0
    assert os.listdir(reader) == ["reader.py"]
    assert "reader_pack" not in sys.modules


def test_to_look_for_packs_can_be_left_out(pack: Path) -> None:
    assert "reader_at_once" not in catalog.load(packs=False).optimizations
    assert "reader_at_once" in catalog.load().optimizations
    assert "reader_at_once" not in catalog.load_for([QUICK[0], "tokenizer_quick"]).optimizations
    assert "reader_at_once" in catalog.load_for([QUICK[0], "reader_at_once"]).optimizations
    assert "reader_at_once" in catalog.load_for(["no such thing"]).optimizations


def test_two_targets_do_not_go_together(pack: Path, reader: Path, run: Run) -> None:
    ran = run("reader_at_once", QUICK[0], cwd=reader)
    assert ran.code == 2
    assert "these are for different targets: reader, step_audio_editx" in ran.err


def test_what_goes_together_and_what_does_not(pack: Path, reader: Path, run: Run) -> None:
    unit = UNIT.replace('["loop"]', '["mark"]')
    other = (
        CODEMOD.replace('"loop"', '"mark"')
        .replace("OLD", "'# old'")
        .replace("NEW", "'# new'")
        .replace("from ._shared import '# old', '# new'", "")
    )
    for name, rule in (
        ("reader_needs", "requires = ['reader_at_once']"),
        ("reader_hates", "conflicts = ['reader_at_once']"),
    ):
        write(pack, {f"patches/{name}/optimization.toml": unit + rule, f"codemods/{name}.py": other})
    (reader / "reader.py").write_bytes(READER + b"# old\n")
    before = (reader / "reader.py").read_bytes()
    ran = run("reader_needs", cwd=reader)
    assert ran.code == 3
    assert "reader_needs: needs reader_at_once" in ran.err
    assert "  apply-opt reader_at_once\n" in ran.err
    assert run("reader_at_once", "reader_needs", cwd=reader).code == 0
    assert run("revert", "reader_needs", cwd=reader).code == 0
    ran = run("reader_hates", cwd=reader)
    assert ran.code == 3
    assert "reader_hates: does not go together with reader_at_once" in ran.err
    assert "  apply-opt revert reader_at_once\n" in ran.err
    assert run("revert", cwd=reader).code == 0
    assert (reader / "reader.py").read_bytes() == before
    assert run("reader_hates", cwd=reader).code == 0
    (reader / "reader.py").write_bytes(before)  # taken out by hand: it does not count any more
    assert run("reader_at_once", "reader_needs", cwd=reader).code == 0


def entry_points(pack: Path, text: str) -> None:
    (pack.parent / "reader_pack-1.0.dist-info" / "entry_points.txt").write_text(f"[apply_opt.packs]\nreader = {text}\n")


@pytest.mark.parametrize("value", ["no_such_package", "no.such.package", "json.decoder", "reader_pack.patches.x"])
def test_a_pack_that_is_none(value: str, pack: Path) -> None:
    entry_points(pack, value)
    with pytest.raises(ApplyOptError, match=f"the pack reader names {value}, which is not a package") as raised:
        catalog.load()
    assert raised.value.next_step == "pip uninstall reader"


MANIFEST = "patches/reader_at_once/optimization.toml"
TARGETS = "target_repos/reader/target.toml"
BUNDLE = "patches/reader_all/bundle.toml"
DAMAGED: dict[str, tuple[str, str | bytes, str]] = {
    "cut off": (MANIFEST, UNIT[:40], "optimization.toml cannot be read: "),
    "no TOML": (MANIFEST, "{}", "optimization.toml cannot be read: "),
    "no UTF-8": (MANIFEST, b"title = '\xe9'", "optimization.toml cannot be read: "),
    **{
        f"no {key}": (MANIFEST, UNIT.replace(f"{key} =", "x ="), f"lacks or misspells '{key}'")
        for key in ("title", "target", "safety", "sites", "manual")
    },
    "sites that are no list": (
        MANIFEST,
        UNIT.replace('["loop"]', '"loop"'),
        "sites: a list of texts is wanted, not 'loop'",
    ),
    "sites of the wrong type": (MANIFEST, UNIT.replace('["loop"]', "[1]"), "sites: a list of texts is wanted"),
    "no site": (MANIFEST, UNIT.replace('["loop"]', "[]"), r"sites \(at least one\)"),
    "an unknown class": (MANIFEST, UNIT.replace("exact", "safe"), r"safety \(one of instrument, exact, "),
    "a class of the wrong type": (MANIFEST, UNIT.replace('"exact"', "1"), r"safety \(one of instrument, exact, "),
    "an unknown class with a value": (
        MANIFEST,
        UNIT + "[safety_with]\n'x=1' = 'safe'",
        r"safety \(one of instrument, exact, ",
    ),
    "an unknown target": (MANIFEST, UNIT.replace('"reader"', '"writer"'), "names writer, which is not there"),
    "parameters that are none": (MANIFEST, UNIT + "parameters = 1", "lacks or misspells"),
    "a parameter without a type": (MANIFEST, UNIT + "[parameters.x]\ndefault = 1", "lacks or misspells 'type'"),
    "a parameter of an unknown type": (
        MANIFEST,
        UNIT + "[parameters.x]\ntype = 'float'\ndefault = 1",
        "lacks or misspells 'float'",
    ),
    "a default of another type": (
        MANIFEST,
        UNIT + "[parameters.x]\ntype = 'int'\ndefault = '1'",
        "the default of x, '1': it takes a whole",
    ),
    "a default that is no choice": (
        MANIFEST,
        UNIT + "[parameters.x]\ntype = 'choice'\nchoices = ['a']\ndefault = 'b'",
        "the default of x, 'b': it takes a",
    ),
    "a switch that is a number": (MANIFEST, UNIT + "[parameters.x]\ntype = 'bool'\ndefault = 1", "the default of x, 1"),
    "warnings that are none": (MANIFEST, UNIT + "warnings = 1", "lacks or misspells"),
    "a target cut off": (TARGETS, TARGET[:20], "target.toml cannot be read: "),
    "a target without a title": (TARGETS, TARGET.replace("title", "x"), "lacks or misspells 'title'"),
    "a target without marks": (TARGETS, TARGET.replace("markers", "x"), "lacks or misspells 'markers'"),
    "a target with one mark for many": (
        TARGETS,
        TARGET.replace('["def read_all("]', '"def"'),
        "markers: a list of texts is wanted",
    ),
    "a revision without a path": (
        TARGETS,
        TARGET + "[[revision]]\nrepository = 'x'\ncommits = []",
        "lacks or misspells 'path'",
    ),
    "an unknown part": (MANIFEST, UNIT + "part = 'writer'", "names the part writer, which is not there"),
    "a part of the wrong type": (
        MANIFEST,
        UNIT + "part = ['writer']",
        r"names the part \['writer'\], which is not there",
    ),
    "a part without marks": (TARGETS, TARGET + "[part.x]\nfiles = ['x.py']\nmarkers = []", "the part x "),
    "a part without files": (TARGETS, TARGET + "[part.x]\nfiles = []\nmarkers = ['x']", "the part x "),
    "a part with a name that cannot be typed": (
        TARGETS,
        TARGET + "[part.'a=b']\nfiles = ['x.py']\nmarkers = ['x']",
        "the part a=b ",
    ),
    "parts that are none": (TARGETS, "part = 1" + TARGET, "lacks or misspells"),
    "revisions that are none": (TARGETS, "revision = 1" + TARGET, "lacks or misspells"),
    "a bundle of nothing that is there": (
        BUNDLE,
        "title='x'\ntarget='reader'\noptimizations=['y']",
        "names y, which is not there",
    ),
    "a bundle of no list": (
        BUNDLE,
        "title='x'\ntarget='reader'\noptimizations='y'",
        "optimizations: a list of texts is wanted",
    ),
    "a bundle for nothing": (BUNDLE, "title='x'\ntarget='z'\noptimizations=[]", r"optimizations \(at least one\)"),
    "our name": (f"patches/{QUICK[0]}/optimization.toml", UNIT, f"two units are called {QUICK[0]}: "),
    "our bundle's name": ("patches/tokenizer_quick/optimization.toml", UNIT, "two units are called tokenizer_quick: "),
    "our name for a bundle": (
        f"patches/{QUICK[0]}/bundle.toml",
        "title='x'\ntarget='reader'\noptimizations=[]",
        "two units are called",
    ),
    "our target's name": (
        "target_repos/step_audio_editx/target.toml",
        TARGET,
        "two units are called step_audio_editx: ",
    ),
}


@pytest.mark.parametrize(("name", "text", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_manifests_are_named(
    name: str, text: str | bytes, message: str, pack: Path, reader: Path, run: Run
) -> None:
    write(pack, {name: text})
    with pytest.raises(ApplyOptError, match=message) as raised:
        catalog.load()
    assert str(pack) in raised.value.message
    assert raised.value.next_step
    assert run("list", cwd=reader).code == 1
    assert run(QUICK[0], "--repo", reader, cwd=reader).code == 3, "a pack's damage does not stop our own"


CODEMODS = {
    "missing": (None, "ModuleNotFoundError"),
    "needs what is missing": ("import no_such_module\n", "no_such_module"),
    "not Python": ("def find(:\n", "SyntaxError"),
    "fails": ("raise RuntimeError('boom')\n", "boom"),
}


@pytest.mark.parametrize(("text", "message"), CODEMODS.values(), ids=CODEMODS.keys())
def test_a_codemod_that_cannot_be_loaded(text: str | None, message: str, pack: Path, reader: Path, run: Run) -> None:
    path = pack / "codemods" / "reader_at_once.py"
    path.unlink()
    if text is not None:
        path.write_text(text)
    ran = run("reader_at_once", cwd=reader)
    assert ran.code == 1
    assert "the codemod of reader_at_once cannot be loaded: " in ran.err
    assert message in ran.err
    assert str(path) in ran.err
    assert os.listdir(reader) == ["reader.py"]


def test_our_own(fresh_catalog: None) -> None:
    units = catalog.load()
    assert set(QUICK) <= set(units.optimizations)
    quick = units.unit("tokenizer_quick")
    assert isinstance(quick, Bundle)
    assert [member.name for member in units.members(quick)] == list(QUICK)
    one = units.unit(QUICK[0])
    assert isinstance(one, Optimization)
    assert units.members(one) == [one]
    assert catalog.load() is units


@pytest.mark.parametrize(("name", "step"), [("tokenizer_tf", "did you mean tokenizer_tf32? "), ("zzz", "")])
def test_the_nearest_name(name: str, step: str) -> None:
    with pytest.raises(UsageError, match=f"there is no optimization or bundle called {name}") as raised:
        catalog.load(packs=False).unit(name)
    assert raised.value.next_step == f"{step}apply-opt list --all shows what there is"


def test_a_source_tree_that_is_not_installed(pack: Path, tmp_path: Path) -> None:
    entry_points(pack, "json")
    units = catalog.load_tree(str(pack))
    assert {"reader_at_once", *QUICK} <= set(units.optimizations)
    assert set(catalog.load_tree(str(ROOT)).optimizations) == set(catalog.load(packs=False).optimizations)


def test_installed_units_are_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets.data_root() == str(ROOT)
    write(tmp_path, {"apply_opt/io/targets.py": "", "apply_opt/units/patches/x": ""})
    monkeypatch.setattr(targets, "__file__", str(tmp_path / "apply_opt" / "io" / "targets.py"))
    assert targets.data_root() == str(tmp_path / "apply_opt" / "units")


def test_pages_by_language(tmp_path: Path) -> None:
    unit = catalog.load(packs=False).optimizations[QUICK[0]]._replace(folder=str(tmp_path))
    assert catalog.page(unit) == ""
    write(tmp_path, {"README.md": "English", "README.zh-CN.md": "中文"})
    assert catalog.page(unit) == "English"
    assert catalog.page(unit, "zh-CN") == "中文"
    assert catalog.page(unit, "fr") == "English"
