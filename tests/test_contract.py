"""What every unit promises, whatever it does: one name, a manifest that holds, pages, patches that agree with its codemod."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from apply_opt.commands import tune
from apply_opt.io import catalog
from apply_opt.model import patch
from apply_opt.model.digest import sha256
from apply_opt.model.parameters import Parameter, resolve
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED, REFUSED, Planner, plan_one
from apply_opt.model.target import Target
from apply_opt.model.unit import SAFETY, Bundle, Optimization

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNITS = catalog.load(packs=False)
OPTIMIZATIONS = sorted(UNITS.optimizations.values())
BUNDLES = sorted(UNITS.bundles.values())
UPSTREAM_HAS = {"conformer_channel_split"}  # in its own way
NO_PLACE = {
    "KimMeen/Time-LLM": ("dwt_",),
    "MarkFzp/act-plus-plus": ("act_action_chunk", "act_persistent_workers"),
    "tonyzhaozh/act": ("act_decode_cache", "act_simplejpeg"),
}
"""Of what there is no place: prompts from wavelets; actions that are cut already, epochs without end; compressed images."""
PORTS_HAVE = {"conformer_expand_masks"}
TOP_PATCHES = sorted(name for name in os.listdir(os.path.join(ROOT, "patches")) if name.endswith(".patch"))

# What a patch for an upstream tree may quote of it: lines that published notes quote, and lines that hold no more than
# public names (a class, a method and its arguments, a call of another library) or a bracket.
QUOTABLE = {
    "",
    ")",
    "):",
    "class StepAudioTokenizer:",
    "def get_vq02_code(self, audio, session_id=None, is_final=True):",
    "model_source=ModelSource.AUTO,",
    "self.ort_session = onnxruntime.InferenceSession(",
    "session_option.intra_op_num_threads = 1",
    'funasr_model_id="dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"',
}


def target_of_patch(name: str) -> Target:
    text = read(os.path.join(ROOT, "patches", name))
    return target_of(UNITS.optimizations[patch.headers(text)["X-Apply-Opt"].split()[0]])


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def target_of(unit: Optimization) -> Target:
    return UNITS.targets[unit.target]


def path_of(unit: Optimization) -> str:
    """The usual place of the file that a unit changes."""
    return target_of(unit).part(unit.part).files[0]


def references_before(names: list[str]) -> dict[str, bytes]:
    """The files of the reference tree that ``names`` change."""
    units = [UNITS.optimizations[name] for name in names]
    return {path_of(u): read(os.path.join(target_of(u).folder, "reference", path_of(u))) for u in units}


def references(names: list[str]) -> dict[str, bytes]:
    """The files of the reference tree that ``names`` change, with what they need in them."""
    every = UNITS.with_required(names)
    plain = references_before(every)
    own = {path_of(UNITS.optimizations[name]) for name in names}
    needed = after_all([name for name in every if name not in names], plain)
    return {path: data for path, data in needed.items() if path in own}


def after_all(names: list[str], texts: dict[str, bytes]) -> dict[str, bytes]:
    """What the codemods make of files, one after the other."""
    now = dict(texts)
    for name in names:
        unit = UNITS.optimizations[name]
        path, values = path_of(unit), resolve(unit.parameters, {}, name)
        outcome = plan_one(unit, catalog.codemod(unit), now[path], path, values)
        assert outcome.kind == PLANNED, f"{name}, of {names}: {outcome.message}"
        now[path] = outcome.after
    return now


def patch_all(text: bytes, texts: dict[str, bytes], reverse: bool = False) -> dict[str, bytes]:
    """What a patch makes of files: of these, and of no other."""
    parsed = {file.path: file for file in patch.parse(text, "x.patch")}
    assert parsed.keys() == texts.keys()
    return {path: patch.apply(parsed[path], data, reverse) for path, data in texts.items()}


def test_there_are_units() -> None:
    assert len(OPTIMIZATIONS) >= 3
    assert BUNDLES
    assert TOP_PATCHES


@pytest.mark.parametrize("unit", OPTIMIZATIONS, ids=lambda u: u.name)
class TestOptimization:
    def test_has_one_name_everywhere(self, unit: Optimization) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", unit.name)
        paths = (
            f"codemods/{unit.name}.py" if unit.rules is None else unit.codemod,
            f"tests/codemods/test_{unit.name}.py",
        )
        for path in paths:
            assert os.path.isfile(os.path.join(ROOT, path)), path

    def test_manifest_holds(self, unit: Optimization) -> None:
        assert unit.safety in SAFETY
        assert unit.sites
        assert len(set(unit.sites)) == len(unit.sites)
        assert unit.target in UNITS.targets
        assert unit.manual.strip()
        assert unit.title != unit.title_zh
        assert set(unit.requires) | set(unit.conflicts) <= set(UNITS.optimizations)
        names = {p.name: p for p in unit.parameters}
        for key in unit.warnings:
            name, _, value = key.partition("=")
            assert name in names
            assert not value or str(names[name].parse(value)).lower() == value
        defaults = resolve(unit.parameters, {}, unit.name)
        for key in unit.safety_with:
            name, _, value = key.partition("=")
            assert str(names[name].parse(value)).lower() == value
        assert unit.safety_for(defaults) == unit.safety

    def test_defaults_are_values_that_could_be_given(self, unit: Optimization) -> None:
        def given(parameter: Parameter) -> str:
            return str(parameter.default).lower() if isinstance(parameter.default, bool) else str(parameter.default)

        values = {p.name: given(p) for p in unit.parameters}
        assert resolve(unit.parameters, values, unit.name) == resolve(unit.parameters, {}, unit.name)
        assert all(p.help and p.help_zh for p in unit.parameters)

    def test_values_to_try_are_not_too_many(self, unit: Optimization) -> None:
        assert math.prod(len(p.candidates(64)) for p in unit.parameters if p.tune) <= tune.MOST

    def test_page_says_what_has_to_be_said(self, unit: Optimization) -> None:
        english, chinese = catalog.page(unit, "en"), catalog.page(unit, "zh-CN")
        assert english.startswith("# ")
        assert unit.name in english
        assert unit.safety in english
        assert "TODO" not in english + chinese
        assert english != chinese
        assert all(f"`{p.name}`" in english for p in unit.parameters)

    def test_reference_patch_is_what_the_codemod_does(self, unit: Optimization) -> None:
        text, before = read(os.path.join(unit.folder, "reference.patch")), references([unit.name])
        after = after_all([unit.name], before)
        fields = patch.headers(text)
        assert patch_all(text, before) == after
        assert patch_all(text, after, reverse=True) == before
        hashes = [" ".join(map(sha256, texts.values())) for texts in (before, after)]
        assert [fields["X-Sha256-Before"], fields["X-Sha256-After"]] == hashes
        assert fields["X-Apply-Opt"] == unit.name
        assert {"Description", "Origin", "Forwarded", "Last-Update"} <= set(fields)


@pytest.mark.parametrize("unit", OPTIMIZATIONS, ids=lambda u: u.name)
def test_alone(unit: Optimization) -> None:
    """Planned without what it needs, it lands or says why not."""
    parameters = resolve(unit.parameters, {}, unit.name)
    data = read(os.path.join(target_of(unit).folder, "reference", path_of(unit)))
    outcome = plan_one(unit, catalog.codemod(unit), data, path_of(unit), parameters)
    assert outcome.kind == PLANNED or (unit.requires and outcome.kind == REFUSED), outcome


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("unit", OPTIMIZATIONS, ids=lambda u: u.name)
def test_page_shows_what_is_written(unit: Optimization, language: str) -> None:
    """A block of Python on a page is code of the result, letter by letter; a diff's default lines are in it too."""
    texts = references([unit.name])
    before, after = (files[path_of(unit)].decode() for files in (texts, after_all([unit.name], texts)))
    page = catalog.page(unit, language)
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        assert block in after
    diffs = re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert diffs
    first = [line for line in diffs[0].splitlines() if line[:1] in "+-"]
    assert all(line[1:] in {"+": after, "-": before}[line[0]] for line in first), first


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "patches/README.md", "patches/README.zh-CN.md"])
def test_lists_name_every_unit(page: str) -> None:
    text = read(os.path.join(ROOT, page)).decode()
    assert [u.name for u in (*OPTIMIZATIONS, *BUNDLES) if f"{u.name}/README" not in text] == []


@pytest.mark.parametrize("unit", BUNDLES, ids=lambda u: u.name)
def test_bundle(unit: Bundle) -> None:
    assert {UNITS.optimizations[name].target for name in unit.optimizations} == {unit.target}
    assert all(name in catalog.page(unit, "en") for name in unit.optimizations)
    assert catalog.page(unit, "en") != catalog.page(unit, "zh-CN")


@pytest.mark.parametrize("unit", BUNDLES, ids=lambda u: u.name)
def test_a_bundle_lands_on_the_reference(unit: Bundle) -> None:
    """Planned at once, as commands do it, all of it makes what the optimizations make one after the other."""
    names = UNITS.with_required(unit.optimizations)
    plain = references_before(names)
    planners = {path: Planner(data, path) for path, data in plain.items()}
    for name in names:
        one = UNITS.optimizations[name]
        outcome = planners[path_of(one)].plan(one, catalog.codemod(one), resolve(one.parameters, {}, name))
        assert outcome.kind == PLANNED, outcome.message
    for planner in planners.values():
        planner.finish()
    assert {path: planner.data for path, planner in planners.items()} == after_all(names, plain)


@pytest.mark.parametrize("unit", OPTIMIZATIONS, ids=lambda u: u.name)
def test_beside_every_other_one(unit: Optimization) -> None:
    """On top of each that changes the same file, on the reference tree; and both are found afterwards."""
    beside = [o for o in OPTIMIZATIONS if o.target == unit.target and path_of(o) == path_of(unit) and o != unit]
    for other in beside:
        names = UNITS.with_required([other.name, unit.name])
        if names.index(other.name) < names.index(unit.name) and not _conflict(names):
            texts = after_all(names, references_before(names))
            for name in names:
                one = UNITS.optimizations[name]
                values = resolve(one.parameters, {}, name)
                found = plan_one(one, catalog.codemod(one), texts[path_of(one)], path_of(one), values)
                assert found.kind in (ALREADY, NOT_NEEDED), f"{name}, of {names}: {found.message}"


def _conflict(names: Sequence[str]) -> bool:
    return any(other in UNITS.optimizations[name].conflicts for name in names for other in names)


@pytest.mark.parametrize("target", sorted(UNITS.targets.values()), ids=lambda t: t.name)
def test_known_revisions_are_hashes_of_known_units(target: Target) -> None:
    assert target.revisions
    for revision in target.revisions:
        hashes = [revision.sha256, *revision.after.values()]
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
        own = [o.name for o in OPTIMIZATIONS if o.target == target.name]
        own = [name for name in own if not name.startswith(NO_PLACE.get(revision.repository, ("-",)))]
        names = [name for name in own if path_of(UNITS.optimizations[name]) == revision.path] or own
        has = {*UPSTREAM_HAS, *(own if names == own else ())} - {*revision.names()}  # a port: what is recorded lands
        assert has <= UPSTREAM_HAS | PORTS_HAVE
        keys = ["+".join(n for n in UNITS.with_required([name]) if n in names) for name in names if name not in has]
        alone = [revision.sha256, *(revision.after[key] for key in keys)]
        assert len(set(alone)) == len(alone)
        bundles = [[n for n in b.optimizations if n in names] for b in BUNDLES if b.target == target.name]
        orders = [p for b in bundles if len(b) <= 3 for n in range(2, len(b) + 1) for p in itertools.permutations(b, n)]
        every = {*keys, *("+".join(order) for order in orders if UNITS.with_required(order) == [*order])}
        assert every <= set(revision.after)
        large = [b for b in bundles if len(b) > 3]
        rest = [key.split("+") for key in sorted(set(revision.after) - every)]
        assert len(rest) == len(large), "of a large bundle, what its own order comes to"
        for bundle in large:
            assert any(landed == [name for name in bundle if name in landed] for landed in rest), bundle


@pytest.mark.parametrize("name", TOP_PATCHES)
class TestUpstreamPatch:
    def test_quotes_next_to_nothing_of_upstream(self, name: str) -> None:
        body = read(os.path.join(ROOT, "patches", name)).decode().split("\n--- ", 1)[1]
        for hunk in re.split(r"(?m)^(?:--- .*\n\+\+\+ .*\n)?@@ -", body)[1:]:
            lines = hunk.split("\n")[1:-1]
            kinds = "".join(line[0] for line in lines)
            assert re.fullmatch(r" ?[-+]+ ?", kinds), f"more than one line of context: {kinds}"
            quoted = {line[1:].strip() for line in lines if line[0] in " -"}
            assert quoted <= QUOTABLE

    def test_header_agrees_with_the_known_hashes(self, name: str) -> None:
        fields = patch.headers(read(os.path.join(ROOT, "patches", name)))
        names = fields["X-Apply-Opt"].split()
        hashes = zip(fields["X-Sha256-Before"].split(), fields["X-Sha256-After"].split())
        for path, (before, after) in zip(references(names), hashes):
            known = [r for r in target_of_patch(name).revisions if r.sha256 == before]
            assert [r.path for r in known] == [path]
            assert known[0].after["+".join(n for n in names if path_of(UNITS.optimizations[n]) == path)] == after

    def test_does_to_the_reference_what_the_codemods_do(self, name: str) -> None:
        text = read(os.path.join(ROOT, "patches", name))
        names = patch.headers(text)["X-Apply-Opt"].split()
        before = references(names)
        assert patch_all(text, before) == after_all(names, before)

    @pytest.mark.parametrize("program", ["patch", "git"])
    def test_goes_in_and_comes_out_with(self, name: str, program: str, tmp_path: Path) -> None:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
        text = read(os.path.join(ROOT, "patches", name))
        names = patch.headers(text)["X-Apply-Opt"].split()
        before = references(names)
        for path, data in before.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
        commands = {
            "patch": (["patch", "-p1", "--fuzz=0"], ["patch", "-R", "-p1", "--fuzz=0"]),
            "git": (["git", "apply"], ["git", "apply", "-R"]),
        }
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
        for command, expected in zip(commands[program], (after_all(names, before), before)):
            subprocess.run(command, cwd=tmp_path, input=text, check=True, env=environment, stdout=subprocess.DEVNULL)
            assert {path: (tmp_path / path).read_bytes() for path in before} == expected


@pytest.mark.parametrize("target", sorted(UNITS.targets.values()), ids=lambda t: t.name)
def test_upstream_patches_stack_in_either_order(target: Target) -> None:
    texts = [read(os.path.join(ROOT, "patches", name)) for name in TOP_PATCHES if target_of_patch(name) == target]
    results = []
    for order in (texts, texts[::-1]):
        now = references([name for text in texts for name in patch.headers(text)["X-Apply-Opt"].split()])
        for text in order:
            touched = {file.path: now[file.path] for file in patch.parse(text, "x.patch")}
            now |= patch_all(text, touched)
        results.append(now)
    assert results[0] == results[1]
