"""``dwt_batch_features``: only for generators that compute what is known, however they say it."""

from __future__ import annotations

import pytest
from cases import plan, refuses, replaced
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED, REFUSED

NAME = "dwt_batch_features"
GENERATOR = (ROOT / "target_repos" / "time_llm" / "reference" / "layers" / "DWTPromptGenerator.py").read_text(
    encoding="utf-8"
)
METHOD = "    def features_of_each(self, x_enc):\n"


def changed(text: str) -> str:
    """What comes out of a generator for which it lands."""
    outcome = plan(NAME, text)
    assert outcome.kind == PLANNED, outcome.message
    after = outcome.after.decode()
    compile(after, NAME, "exec")
    assert plan(NAME, after).kind == ALREADY
    return after


def test_what_is_added() -> None:
    after = changed(GENERATOR)
    first = after.index("class _RowByRow")
    second, cls = after.index("class _BatchFeatures:"), after.index("class DWTPromptGenerator(")
    added = after.index(METHOD)
    assert first < second < cls < added < after.index("    def _extract_frequency_features")
    assert "type(generator) is not DWTPromptGenerator" in after
    end = after.index("        return _BatchFeatures(self).of(x_enc)\n") + len(
        "        return _BatchFeatures(self).of(x_enc)\n"
    )
    assert after[:first] + after[cls : added - 1] + after[end:] == GENERATOR
    for placeholder in ("GENERATOR", "MODE", "DIGITS", "ROWS", "HELPER"):
        assert placeholder not in after


CHECK = """        if torch.isnan(x_enc).any() or torch.isinf(x_enc).any():
            raise ValueError("the sample has NaN or infinity in it")
"""
DIMENSIONS = """        if x_enc.dim() != 3:
            raise ValueError(f"(B, N, T) is needed, not {tuple(x_enc.shape)}")
"""
EXCEPT = """        except Exception as error:
            raise RuntimeError(f"no decomposition into {self.level} levels of {self.wavelet}: {error}") from error
"""
STEPS = """changes = c[..., 1:] - c[..., :-1]
            if changes.numel() == 0:
                change = 0.0
            else:
                change = changes.mean().item()
            trends.append(change)"""
LOOP = """energies = []
        for c in coeffs:
            energy = torch.square(c).sum(axis=-1)
            if torch.isnan(energy).any():
                raise ValueError("no numbers")
            energies.append(energy)"""
NOT_EMPTY = """stds = []
        for c in coeffs:
            if c.numel() == 0:
                s = 0.0
            else:
                s = torch.std(c).item()
            s = max(0.0, s)
            stds.append(s)"""
SHADOWED = """        for total in energies:
            if torch.isnan(total).any():
                raise ValueError("no numbers")
        if torch.any(total == 0):"""
COUNTED = """        for consistency, t in enumerate(trends):
            if torch.isnan(t):
                raise ValueError(consistency)
        return {
            "trends\""""
CAUGHT = """        try:
            if counts.dim() != 3:
                raise ValueError("no votes")
            dominant_energy = energy_ratio[dominant_band].mean().item()
        except Exception:
            dominant_band, dominant_energy = 0, 0.0"""
OTHER_EMPTY = """        known = self.known
        if known.numel() == 0:
            coeffs = coeffs[::-1]
        energies = ["""
HALF = """        whole = energy_ratio
        energy_ratio = energy_ratio / 2
        safe = torch.clamp(whole"""
UNREAD = "        device = x_enc.device\n        kind: object = x_enc.dtype\n"
SAME: dict[str, list[tuple[str, str]]] = {
    "another class": [("DWTPromptGenerator", "WaveletPrompter")],
    "other variables": [("bands", "parts"), ("energies", "e"), ("coeffs", "c_all"), ("safe", "p")],
    "another parameter": [("x_enc", "samples")],
    "other messages": [
        ("the sample has NaN or infinity in it", "numbers"),
        ("a tensor is needed, not {type(x_enc)}", "no"),
    ],
    "no check for numbers": [(CHECK, "")],
    "one more check": [(CHECK, CHECK + "        if x_enc.numel() == 0:\n            raise ValueError('nothing')\n")],
    "annotations": [("def forward(self, x_enc):", "def forward(self, x_enc: torch.Tensor) -> dict:")],
    "comments": [
        ("        total = sum(energies)\n", "        # all bands\n        total = sum(energies)  # of a row\n")
    ],
    "other thresholds": [('"snr_high": 20', '"snr_high": 25')],
    "another difficulty": [("40 * (1 -", "50 * (1 -")],
    "other words": [("many scales", "a lot of scales")],
    "another wavelet": [('wavelet="db4", level=3', 'wavelet="haar", level=2')],
    "no gradients": [("    def forward", "    @torch.no_grad()\n    def forward")],
    "unread values": [("        B, N, T = x_enc.shape\n", "        B, N, T = x_enc.shape\n" + UNREAD)],
    "numbered bands": [
        ("for c in coeffs:\n            if c.shape", "for k, c in enumerate(coeffs):\n            if c.shape"),
        ('f"a band of {c.shape[-1]} has no trend"', 'f"band {k} has no trend"'),
    ],
    "asserted": [
        (CHECK, "        assert not torch.isnan(x_enc).any() and torch.isfinite(x_enc).all(), 'numbers'\n"),
        (DIMENSIONS, "        assert x_enc.dim() == 3\n"),
    ],
    "another way to ask": [
        ("not torch.is_tensor(x_enc)", "not isinstance(x_enc, torch.Tensor)"),
        ("x_enc.dim() != 3", "x_enc.ndim != 3"),
        ("2**self.level > T", "T < 2**self.level"),
        ("torch.isnan(x_enc).any()", "bool(x_enc.isnan().any())"),
    ],
    "options by name": [
        ('self.wavelet, level=self.level, mode="reflect"', "mode='reflect', level=self.level, wavelet=self.wavelet")
    ],
    "without gradients": [
        ("        try:\n            bands = ", "        with torch.no_grad():\n            bands = "),
        (EXCEPT, ""),
    ],
    "steps": [
        ("x_enc.reshape(B * N, 1, T).float()", "rows"),
        ("        try:\n", "        rows = x_enc.reshape(B * N, 1, T)\n        rows = rows.float()\n        try:\n"),
        ("trends.append((c[..., 1:] - c[..., :-1]).mean().item())", STEPS),
    ],
    "methods": [
        ("torch.sum(c**2, dim=-1)", "c.pow(2).sum(-1)"),
        ("total.clamp(min=1e-10)", "torch.clamp_min(total, 1e-10)"),
        ("(c[..., 1:] - c[..., :-1]).mean()", "torch.mean(c[..., 1:] - c[..., :-1])"),
        ("torch.std(c)", "c.detach().std()"),
        ("energy_ratio.mean(dim=1)", "energy_ratio.mean(axis=1)"),
        ("torch.ones(len(coeffs), len(total),", "torch.ones(len(coeffs), total.size(0),"),
    ],
    "a loop": [("energies = [torch.sum(c**2, dim=-1) for c in coeffs]", LOOP)],
    "branches": [
        (
            "        consistency = same if trends_sign[0] != 0 else 0.5\n",
            "        if trends_sign[0] != 0:\n            consistency = same\n        else:\n            consistency = 0.5\n",
        )
    ],
    "of what is not empty": [("stds = [max(0.0, torch.std(c).item()) for c in coeffs]", NOT_EMPTY)],
    "a regular expression": [("class DWT", "import re\n\nNAME = re.compile('db[0-9]+')\n\n\nclass DWT")],
    "a list of words": [
        ("        ratio = stds[-1]", "        parts = []\n        parts.append('a')\n        ratio = stds[-1]")
    ],
    "a setter": [
        (
            "    def _calculate",
            "    def set_high(self, high):\n        self.thresholds['snr_high'] = high\n\n    def _calculate",
        )
    ],
    "more methods": [("    def _calculate", "    def reset(self):\n        return self.level\n\n    def _calculate")],
    "tabs": [("    ", "\t")],
    "other line endings": [("\n", "\r\n")],
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_in_other_words(how: str) -> None:
    text = GENERATOR
    for old, new in SAME[how]:
        assert old in text
        text = text.replace(old, new)
    changed(text)


@pytest.mark.parametrize("mode", ["zero", "periodic", "symmetric", "constant"])
def test_how_the_ends_are_treated(mode: str) -> None:
    after = changed(GENERATOR.replace('mode="reflect"', f"mode='{mode}'"))
    assert f'level=generator.level, mode="{mode}")' in after and "reflect" not in after


@pytest.mark.parametrize("name", ["MODE", "DIGITS", "GENERATOR"])
def test_a_setting_that_is_called_as_our_own_words(name: str) -> None:
    after = changed(GENERATOR.replace('mode="reflect"', f"mode=self.{name}"))
    assert f"T, device, generator.{name}\n" in after and f"mode=generator.{name})" in after


def test_how_the_ends_are_treated_where_nothing_is_said() -> None:
    assert 'level=generator.level, mode="reflect")' in changed(replaced(GENERATOR, (', mode="reflect"', "")))


def test_how_the_ends_are_treated_is_a_setting() -> None:
    """It is read when it is needed, and what is kept for it is kept for it alone."""
    after = changed(GENERATOR.replace('mode="reflect"', "mode=self.ends"))
    assert "level=generator.level, mode=generator.ends)" in after and "reflect" not in after
    assert "        key = generator.wavelet, generator.level, T, device, generator.ends\n" in after
    own = "    @property\n    def ends(self):\n        return 3\n\n    def _calculate"
    refuses(
        NAME,
        replaced(GENERATOR, ('mode="reflect"', "mode=self.ends"), ("    def _calculate", own)),
        Ambiguous,
        "settings",
    )


OTHER = {
    "forward, on half of the steps": (("x_enc.reshape(B * N, 1, T)", "x_enc.reshape(B * N, 1, T)[..., ::2]"), "forward"),
    "forward, one more feature": (('"difficulty": self', '"length": T, "difficulty": self'), "forward"),
    "forward, another check": (("if 2**self.level > T:", "if 3**self.level > T:"), "forward"),
    "forward, on one variable": (("x_enc.reshape(B * N, 1, T).float()", "x_enc[:, :1].reshape(B, 1, T).float()"), "forward"),
    "energies not squared": (("torch.sum(c**2, dim=-1)", "torch.sum(c.abs(), dim=-1)"), "frequency"),
    "another mean": (("torch.clamp(energy_entropy, min=0).mean()", "torch.clamp(energy_entropy, min=0).median()"), "frequency"),
    "another protection": (("torch.clamp(energy_ratio, min=1e-10)", "torch.clamp(energy_ratio, min=1e-8)"), "frequency"),
    "the loudest variable": (("energy_ratio[dominant_band].mean().item()", "energy_ratio[dominant_band].max().item()"), "frequency"),
    "the mean of energies": (("torch.sum(c**2, dim=-1)", "torch.mean(c**2, dim=-1)"), "frequency"),
    "over another dimension": (("torch.sum(c**2, dim=-1)", "torch.sum(c**2, dim=0)"), "frequency"),
    "cubes": (("torch.sum(c**2, dim=-1)", "torch.sum(c.pow(3), dim=-1)"), "frequency"),
    "a value that changes in between": (("        safe = torch.clamp(energy_ratio", HALF), "frequency"),
    "in place": (("        safe =", "        energy_ratio.mul_(2)\n        safe ="), "frequency"),
    "other values of some": (("energy_ratio[dominant_band]", "(total if len(total) == 1 else energy_ratio[dominant_band])"), "frequency"),
    "a list with more": (("        trends_sign =", "        trends.append(0.0)\n        trends_sign ="), "trend"),
    "a loop that leaves another value": (("        if torch.any(total == 0):", SHADOWED), "frequency"),
    "a counter that leaves another value": (("        return {\n            \"trends\"", COUNTED), "trend"),
    "a check that is caught": (("        dominant_energy = energy_ratio[dominant_band].mean().item()", CAUGHT), "frequency"),
    "another that is empty": (("        energies = [", OTHER_EMPTY), "frequency"),
    "an assertion": (("        signal_std, noise", "        assert stds[0] < 9\n        signal_std, noise"), "quality"),
    "the whole change": (("(c[..., 1:] - c[..., :-1]).mean().item()", "(c[..., 1:] - c[..., :-1]).sum().item()"), "trend"),
    "another consistency": (("else 0.5", "else 0.0"), "trend"),
    "another deviation": (("torch.std(c).item()", "torch.std(c, unbiased=False).item()"), "quality"),
    "a print": (("        signal_std, noise_std = stds", "        print(stds)\n        signal_std, noise_std = stds"), "quality"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_something_else_is_computed(what: str) -> None:
    change, method = OTHER[what]
    refuses(NAME, replaced(GENERATOR, change), Ambiguous, method, "is not known")


KEEPS = {
    "an attribute": ("        direction =", "        self.last = consistency\n        direction ="),
    "an argument": ("        ratio = stds[-1]", "        stds += [0.0]\n        ratio = stds[-1]"),
    "a list by another name": ("        direction =", "        seen = self.seen\n        seen.append(1)\n        direction ="),
    "an entry": ("        direction =", "        self.seen['a'] = consistency\n        direction ="),
    "a list": ("        direction =", "        self.seen.append(consistency)\n        direction ="),
    "a print": ("        direction =", "        print(consistency)\n        direction ="),
    "a global": ("        direction =", "        global last\n        direction ="),
    "in what writes": ("        return (\n            f\"<|start", "        self.count += 1\n        return (\n            f\"<|start"),
}  # fmt: skip


WRITING = '        return (\n            f"<|start'
READS_RECENT = ('return "clean" if snr_db > high', 'return "clean" if snr_db > high and not self.recent["a"]')
STARTS_RECENT = ("        self.thresholds = {", '        self.recent = {"a": 0}\n        self.thresholds = {')
CHANGES_RECENT = [
    "recent = self.recent\n        recent.append(1)",
    "recent = self.recent\n        del recent[:-8]",
    "recent: dict = self.recent\n        recent.update(a=1)",
    "recent, other = self.recent, 1\n        recent['a'] = 1",
    "(recent := self.recent).update(a=1)",
    "for i in self.recent:\n            i.append(1)",
    "getattr(self, 'recent').update(a=1)",
    "vars(self)['recent'] = {}",
    "me = self\n        me.recent = {}",
    "keep(self.recent, 1)",
    "self.recent.observe(1)",
    "[self.recent][0]['a'] = 1",
]
READS = ["low = self.recent['a']", "low = self.recent.get('a')", "low = f'{self.recent}'", "low = len(self.recent)"]


@pytest.mark.parametrize("line", CHANGES_RECENT)
def test_what_writes_may_change_words(line: str) -> None:
    """Where words depend on what it changes: else that is its own matter."""
    writes = replaced(GENERATOR, STARTS_RECENT, (WRITING, f"        {line}\n{WRITING}"))
    if "vars(self)" not in line and "= self\n" not in line:
        changed(writes)
    refuses(NAME, replaced(writes, READS_RECENT), Conflict, "on which words depend")


@pytest.mark.parametrize("line", READS)
def test_what_writes_reads_settings(line: str) -> None:
    changed(replaced(GENERATOR, STARTS_RECENT, READS_RECENT, (WRITING, f"        {line}\n{WRITING}")))


@pytest.mark.parametrize("value", ["Threshold(10.0)", "[Threshold()]", "None or Threshold()"])
def test_words_that_depend_on_an_object(value: str) -> None:
    text = replaced(GENERATOR, (STARTS_RECENT[0], f"        self.recent = {value}\n{STARTS_RECENT[0]}"))
    changed(text)
    refuses(NAME, replaced(text, READS_RECENT), Ambiguous, "words depend on what Threshold gives")


def test_words_that_depend_on_one_of_several() -> None:
    """Of a call that gives more than one thing, each may be an object."""
    several = f"        self.recent, self.other = Threshold()\n{STARTS_RECENT[0]}"
    text = replaced(GENERATOR, (STARTS_RECENT[0], several), READS_RECENT)
    refuses(NAME, text, Ambiguous, "words depend on what Threshold gives")


@pytest.mark.parametrize("what", KEEPS)
def test_something_is_kept_from_sample_to_sample(what: str) -> None:
    refuses(NAME, replaced(GENERATOR, KEEPS[what]), Conflict, "does more than to return something")


WORDS = "    def _analyze_volatility_pattern(self, stds):\n"
NOT_ITS_OWN = {
    "a word for a random number": (WORDS, WORDS + "        np.random.rand()\n"),
    "an argument": (WORDS, WORDS + "        stds[0] = 1.0\n"),
    "a counter": (WORDS, WORDS + "        n = next(self.counter)\n"),
    "another object": (WORDS, WORDS + "        n = self.other.look(stds)\n"),
    "a method that keeps": (
        WORDS,
        "    def _keep(self, x):\n        self.x = x\n\n" + WORDS + "        n = self._keep(stds)\n",
    ),
    "settings": ("        return (\n", "        self.thresholds.update(snr_mid=1)\n        return (\n"),
    "another method": (
        "        self.thresholds = {",
        "        self._extract_trend_features = other\n        self.thresholds = {",
    ),
    "a wrapped method": ("    def _calculate", "    forward = wrap(forward)\n\n    def _calculate"),
    "a property": ("    def _calculate", "    @property\n    def level(self):\n        return 3\n\n    def _calculate"),
    "a call of its own": ("    def _calculate", "    def __call__(self, x):\n        return 3\n\n    def _calculate"),
    "another base": ("(nn.Module)", "(Base)"),
    "a decorated class": ("class DWT", "@traced\nclass DWT"),
}


@pytest.mark.parametrize("what", NOT_ITS_OWN)
def test_what_runs_or_is_kept_cannot_be_told(what: str) -> None:
    outcome = plan(NAME, replaced(GENERATOR, NOT_ITS_OWN[what]))
    assert outcome.kind == REFUSED, outcome.after.decode()
    assert type(outcome.error) in (Ambiguous, Conflict)


@pytest.mark.parametrize(
    "more",
    [
        "DWTPromptGenerator._extract_trend_features = other",
        "setattr(DWTPromptGenerator, 'forward', other)",
        "class DWTPromptGenerator(DWTPromptGenerator):\n    pass",
    ],
)
def test_patched_afterwards(more: str) -> None:
    outcome = plan(NAME, f"{GENERATOR}\n\n{more}\n")
    assert outcome.kind == REFUSED and type(outcome.error) is Ambiguous


CHECKED = [
    "x_enc.isnan().any()",
    "x_enc.isinf().any() or torch.isnan(x_enc).any()",
    "x_enc.numel() == 0",
    "x_enc.dim() != 3",
    "not torch.is_tensor(x_enc)",
]
UNCHECKED = [
    "torch.isinf(1 / x_enc).any()",
    "x_enc[..., 100:].numel() == 0",
    "len(x_enc) == 0 or x_enc",
    "any()",
    "isnan()",
    "x_enc.max() > 3",
    "(x_enc == 0).any()",
    "torch.isnan(y := x_enc).any()",
    "not x_enc",
]


@pytest.mark.parametrize("check", CHECKED + UNCHECKED)
def test_checks(check: str) -> None:
    text = GENERATOR.replace(CHECK, f"        if {check}:\n            raise ValueError\n" + CHECK)
    outcome = plan(NAME, text)
    assert outcome.kind == (PLANNED if check in CHECKED else REFUSED), check


def test_look_alikes() -> None:
    refuses(NAME, "class Model:\n    def forward(self, x):\n        return x\n", NoSite, "no class puts")
    refuses(NAME, GENERATOR.replace("_map_trend_pattern", "_say"), NoSite, "no class puts")
    refuses(NAME, GENERATOR.replace("_extract_trend_features", "_trends"), NoSite, "no class puts")
    again = GENERATOR[GENERATOR.index("class DWT") :].replace("class DWTPromptGenerator", "class Second")
    refuses(NAME, f"{GENERATOR}\n\n{again}", Ambiguous, "several classes", "Second")
    twice = replaced(
        GENERATOR, ("    def _calculate", "    def forward(self, x):\n        return 1\n\n    def _calculate")
    )
    refuses(NAME, twice, Ambiguous, "forward is defined more than once")


def test_decorated_and_other_imports() -> None:
    decorated = GENERATOR.replace("    def forward", "    @torch.compile\n    def forward")
    refuses(NAME, decorated, Conflict, "forward is decorated")
    refuses(NAME, replaced(GENERATOR, ("import numpy as np", "import cupy as np")), Ambiguous, "what cupy.clip does")
    other = replaced(GENERATOR, ("from torch import nn", "import other.nn as nn"))
    refuses(NAME, other, Ambiguous, "no plain torch.nn.Module")
    refuses(NAME, GENERATOR.replace("import ptwt\n", ""), Ambiguous, "ptwt is not imported for the whole file")


IMPORTS = {
    "a name for ptwt": (("import ptwt", "import ptwt as pt"), ("ptwt.wave", "pt.wave"), "import ptwt\n\n\n"),
    "its function": (("import ptwt", "from ptwt import wavedec"), ("ptwt.wave", "wave"), "import ptwt\n\n\n"),
    "its function renamed": (("import ptwt", "from ptwt import wavedec as dwt"), ("ptwt.wavedec", "dwt"), "import ptwt\n\n\n"),
    "numpy": (("import numpy as np", "import numpy"), ("np.", "numpy."), "import numpy as np\n\n\n"),
    "torch.nn": (("from torch import nn\n", ""), ("nn.Module", "torch.nn.Module"), "import torch.nn as nn\n\n\n"),
    "its module": (("from torch import nn", "from torch.nn import Module"), ("nn.Module", "Module"), "import torch.nn as nn\n\n\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", IMPORTS)
def test_modules_by_other_names(what: str) -> None:
    """What our class needs is imported beside it."""
    (old, new), name, added = IMPORTS[what]
    plain = changed(GENERATOR)
    text = GENERATOR.replace(old, new).replace(*name)
    after = changed(text)
    first = plain.index("class _RowByRow"), plain.index("class DWTPromptGenerator(")
    helper = added + plain[slice(*first)]
    where = text.index("class DWTPromptGenerator(")
    assert after.startswith(text[:where] + helper)


def test_a_name_that_is_needed_is_taken() -> None:
    for text in ("import pywt as ptwt\nimport ptwt as pt", "import ptwt as pt\nptwt = None"):
        before = GENERATOR.replace("import ptwt", text).replace("ptwt.wave", "pt.wave")
        refuses(NAME, before, Ambiguous, "ptwt means something else")
    local = "    def forward(self, x_enc):\n        wavedec = other\n"
    before = GENERATOR.replace("import ptwt", "from ptwt import wavedec").replace("ptwt.wave", "wave")
    refuses(NAME, before.replace("    def forward(self, x_enc):\n", local), Ambiguous, "in one call of ptwt.wavedec")


@pytest.mark.parametrize("name", ["sum", "len", "max", "float", "torch", "np", "ptwt"])
def test_names_that_mean_something_else(name: str) -> None:
    said = "np.clip does cannot be told" if name == "np" else f"{name} means something else"
    refuses(NAME, GENERATOR + f"\n\ndef {name}(*values):\n    return 0\n", Ambiguous, said)
    refuses(NAME, GENERATOR + f"\n\n{name} = None\n", Ambiguous, said)


def test_another_call_of_the_decomposition() -> None:
    refuses(NAME, GENERATOR.replace("ptwt.wavedec", "pywt.wavedec"), Ambiguous, "in one call of ptwt.wavedec")
    refuses(NAME, GENERATOR.replace('mode="reflect"', "mode=self.modes[0]"), Ambiguous, "in one call of ptwt.wavedec")
    refuses(NAME, GENERATOR.replace('mode="reflect"', 'mode="odd"'), Ambiguous, "in one call of ptwt.wavedec")


def test_names_that_are_taken() -> None:
    refuses(NAME, GENERATOR + "\n_RowByRow = 1\n", Conflict, "_RowByRow")
    refuses(NAME, GENERATOR + "\n\ndef features_of_each():\n    pass\n", Conflict, "features_of_each")


def test_by_half() -> None:
    after = changed(GENERATOR)
    without = after.replace(METHOD, "    def other(self, x_enc):\n")
    refuses(NAME, without, PartlyApplied, "is missing")
    refuses(NAME, GENERATOR + "\n\nclass _BatchFeatures:\n    pass\n", PartlyApplied, "is missing")


PRINTING = """
    def build_detailed(self, features):
        return f"{features['snr_db']:.1f} dB, {features['energy_entropy']:.2f}, {features['snr_db']:.0f}"
"""
CHOOSING = """
    def build(self, features):
        if self.compression == "minimal":
            return ""
        elif self.compression == "balanced":
            return "short"
        else:
            return self.build_detailed(features)
"""


def test_which_digits_are_printed() -> None:
    shown = 'self.digits = {"snr_db": 1, "energy_entropy": 2}\n'
    assert "        self.digits = {}\n" in changed(GENERATOR)
    assert f"        {shown}" in changed(GENERATOR + PRINTING)
    chosen = changed(GENERATOR + PRINTING + CHOOSING)
    when = 'if generator.compression != "minimal" and generator.compression != "balanced":'
    assert f"        self.digits = {{}}\n        {when}\n            {shown}" in chosen
    direct = """
    def build(self, features):
        if self.compression == "long":
            return self.build_detailed(features)
"""
    text = changed(GENERATOR + PRINTING + direct)
    assert f'        if generator.compression == "long":\n            {shown}' in text


@pytest.mark.parametrize(
    "more",
    [
        PRINTING + CHOOSING.replace('elif self.compression == "balanced"', "elif features['x'] > 1"),
        PRINTING + CHOOSING + CHOOSING.replace("def build", "def again"),
    ],
)
def test_when_digits_are_printed_cannot_be_told(more: str) -> None:
    assert '        self.digits = {"snr_db": 1, "energy_entropy": 2}\n' in changed(GENERATOR + more)


@pytest.mark.parametrize(
    "reading",
    [
        "str(features['snr_db'])",
        "f\"{features['snr_db']}\"",
        "f\"{features['snr_db']:5.1f}\"",
        "features['snr_db'] > 3",
        "f'{features}'",
        "[f'{features[name]:.2f}' for name in self.names]",
        "[f'{value:.2f}' for value in features.values()]",
    ],
)
def test_digits_that_cannot_be_told(reading: str) -> None:
    assert '{"snr_db": 99}' in changed(GENERATOR + f"\n    def more(self, features):\n        return {reading}\n")
