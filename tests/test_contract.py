"""What every unit promises, whatever it does: one name, a manifest that holds, pages, patches that agree with its codemod."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess

import pytest

from apply_opt.io import catalog
from apply_opt.model import patch
from apply_opt.model.digest import sha256
from apply_opt.model.parameters import Parameter, resolve
from apply_opt.model.plan import PLANNED, plan_one
from apply_opt.model.target import Target
from apply_opt.model.unit import SAFETY, Bundle, Optimization

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNITS = catalog.load(packs=False)
OPTIMIZATIONS = sorted(UNITS.optimizations.values())
BUNDLES = sorted(UNITS.bundles.values())
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


def reference(target: Target) -> bytes:
    return read(os.path.join(target.folder, "reference", target.files[0]))


def after_all(names: list[str], data: bytes, file: str) -> bytes:
    """What the codemods make of ``data``, one after the other."""
    for name in names:
        unit = UNITS.optimizations[name]
        outcome = plan_one(unit, catalog.codemod(unit), data, file, resolve(unit.parameters, {}, name))
        assert outcome.kind == PLANNED, outcome.message
        data = outcome.after
    return data


def test_there_are_units() -> None:
    assert len(OPTIMIZATIONS) >= 3
    assert BUNDLES
    assert TOP_PATCHES


@pytest.mark.parametrize("unit", OPTIMIZATIONS, ids=lambda u: u.name)
class TestOptimization:
    def test_has_one_name_everywhere(self, unit: Optimization) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", unit.name)
        for path in (f"codemods/{unit.name}.py", f"tests/codemods/test_{unit.name}.py"):
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

    def test_defaults_are_values_that_could_be_given(self, unit: Optimization) -> None:
        def given(parameter: Parameter) -> str:
            return str(parameter.default).lower() if isinstance(parameter.default, bool) else str(parameter.default)

        values = {p.name: given(p) for p in unit.parameters}
        assert resolve(unit.parameters, values, unit.name) == resolve(unit.parameters, {}, unit.name)
        assert all(p.help and p.help_zh for p in unit.parameters)

    def test_page_says_what_has_to_be_said(self, unit: Optimization) -> None:
        english, chinese = catalog.page(unit, "en"), catalog.page(unit, "zh-CN")
        assert english.startswith("# ")
        assert unit.name in english
        assert unit.safety in english
        assert "TODO" not in english + chinese
        assert english != chinese
        assert all(f"`{p.name}`" in english for p in unit.parameters)

    def test_reference_patch_is_what_the_codemod_does(self, unit: Optimization) -> None:
        target = target_of(unit)
        text, before = read(os.path.join(unit.folder, "reference.patch")), reference(target)
        after = after_all([unit.name], before, target.files[0])
        (parsed,) = patch.parse(text, "reference.patch")
        fields = patch.headers(text)
        assert patch.apply(parsed, before) == after
        assert patch.apply(parsed, after, reverse=True) == before
        assert (fields["X-Sha256-Before"], fields["X-Sha256-After"]) == (sha256(before), sha256(after))
        assert fields["X-Apply-Opt"] == unit.name
        assert {"Description", "Origin", "Forwarded", "Last-Update"} <= set(fields)


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("unit", OPTIMIZATIONS, ids=lambda u: u.name)
def test_page_shows_what_is_written(unit: Optimization, language: str) -> None:
    """A block of Python on a page is code of the result, letter by letter; a diff's default lines are in it too."""
    target = target_of(unit)
    before = reference(target).decode()
    after = after_all([unit.name], reference(target), target.files[0]).decode()
    page = catalog.page(unit, language)
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        assert block in after
    diffs = re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert diffs
    first = [line for line in diffs[0].splitlines() if line[:1] in "+-"]
    assert all(line[1:] in {"+": after, "-": before}[line[0]] for line in first), first


@pytest.mark.parametrize("unit", BUNDLES, ids=lambda u: u.name)
def test_bundle(unit: Bundle) -> None:
    assert {UNITS.optimizations[name].target for name in unit.optimizations} == {unit.target}
    assert all(name in catalog.page(unit, "en") for name in unit.optimizations)
    assert catalog.page(unit, "en") != catalog.page(unit, "zh-CN")


@pytest.mark.parametrize("target", sorted(UNITS.targets.values()), ids=lambda t: t.name)
def test_known_revisions_are_hashes_of_known_units(target: Target) -> None:
    assert target.revisions
    for revision in target.revisions:
        hashes = [revision.sha256, *revision.after.values()]
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes)
        names = [o.name for o in OPTIMIZATIONS if o.target == target.name]
        alone = [revision.sha256, *(revision.after[name] for name in names)]
        assert len(set(alone)) == len(alone)
        orders = [order for n in range(1, len(names) + 1) for order in itertools.permutations(names, n)]
        assert set(revision.after) == {"+".join(order) for order in orders}


@pytest.mark.parametrize("name", TOP_PATCHES)
class TestUpstreamPatch:
    def test_quotes_next_to_nothing_of_upstream(self, name: str) -> None:
        body = read(os.path.join(ROOT, "patches", name)).decode().split("\n+++ ", 1)[1].split("\n", 1)[1]
        for hunk in body.split("@@ -")[1:]:
            lines = hunk.split("\n")[1:-1]
            kinds = "".join(line[0] for line in lines)
            assert re.fullmatch(r" ?[-+]+ ?", kinds), f"more than one line of context: {kinds}"
            quoted = {line[1:].strip() for line in lines if line[0] in " -"}
            assert quoted <= QUOTABLE

    def test_header_agrees_with_the_known_hashes(self, name: str) -> None:
        fields = patch.headers(read(os.path.join(ROOT, "patches", name)))
        known = [r for t in UNITS.targets.values() for r in t.revisions if r.sha256 == fields["X-Sha256-Before"]]
        assert len(known) == 1
        assert known[0].after["+".join(fields["X-Apply-Opt"].split())] == fields["X-Sha256-After"]

    def test_does_to_the_reference_what_the_codemods_do(self, name: str) -> None:
        text = read(os.path.join(ROOT, "patches", name))
        names = patch.headers(text)["X-Apply-Opt"].split()
        target = target_of(UNITS.optimizations[names[0]])
        (parsed,) = patch.parse(text, name)
        before = reference(target)
        assert patch.apply(parsed, before) == after_all(names, before, target.files[0])

    @pytest.mark.parametrize("program", ["patch", "git"])
    def test_goes_in_and_comes_out_with(self, name: str, program: str, tmp_path: str) -> None:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
        target = target_of_patch(name)
        path = os.path.join(tmp_path, target.files[0])
        before = reference(target)
        with open(path, "wb") as file:
            file.write(before)
        commands = {
            "patch": (["patch", "-p1", "--fuzz=0"], ["patch", "-R", "-p1", "--fuzz=0"]),
            "git": (["git", "apply"], ["git", "apply", "-R"]),
        }
        text = read(os.path.join(ROOT, "patches", name))
        names = patch.headers(text)["X-Apply-Opt"].split()
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
        for command, expected in zip(commands[program], (after_all(names, before, target.files[0]), before)):
            subprocess.run(command, cwd=tmp_path, input=text, check=True, env=environment, stdout=subprocess.DEVNULL)
            assert read(path) == expected


@pytest.mark.parametrize("target", sorted(UNITS.targets.values()), ids=lambda t: t.name)
def test_upstream_patches_stack_in_either_order(target: Target) -> None:
    names = [name for name in TOP_PATCHES if target_of_patch(name) == target]
    results = set()
    for order in (names, names[::-1]):
        data = reference(target)
        for name in order:
            (parsed,) = patch.parse(read(os.path.join(ROOT, "patches", name)), name)
            data = patch.apply(parsed, data)
        results.add(data)
    assert len(results) == 1
