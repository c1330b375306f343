"""``dwt_prompt_stats``: only for means over a sample's rows and the first of them, in a loop that writes wavelet prompts."""

from __future__ import annotations

from typing import Any

import pytest
from cases import above, block, constant, lands, plan, refuses, replaced, with_class, with_tabs
from counted import asked_for

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import PLANNED

NAME = "dwt_prompt_stats"
HELPER = constant(NAME, "HELPER_TEXT")
CLASS = "class Model(torch.nn.Module):\n"
HEADER = "def forecast(self, x):"
BODY = """
B, T, N = x.size()
low, high = x.amin(1), x.amax(1)
lags = self.calcute_lags(x)
prompts = []
@for b in range(B):
    features = self.generator(x[b:b+1])
    start = b * N
    end = (b + 1) * N
    info = {
        "min": low[start:end].mean().item(),  # of all variables
        "max": high[start:end].mean().item(),
        "lags": lags[start].tolist(),
    }
    prompts.append(self.generator.build_prompt_text(features, info))
return self.tokenizer(prompts)
"""
CALL = "[mean_low, mean_high], [first_lags] = _of_samples(N, [low, high], [lags])\n"
READS = {
    "low[start:end].mean().item()": "mean_low[b]",
    "high[start:end].mean().item()": "mean_high[b]",
    "lags[start].tolist()": "first_lags[b]",
}


def module(body: str = BODY, header: str = HEADER) -> str:
    """A model whose method is this; ``@`` is where the call goes."""
    return with_class("import torch", CLASS, {header: body.replace("@", "")})


def changed(body: str = BODY, reads: dict[str, str] = READS, call: str = CALL) -> str:
    """The same with the change in it."""
    indent = body[: body.index("@")].rpartition("\n")[2]
    body = replaced(body, ("@", call + indent), *reads.items())
    return above(with_class("import torch", CLASS, {HEADER: body}), CLASS, HELPER)


WITHOUT_GRADIENTS = replaced(
    BODY,
    (
        "    features = self.generator(x[b:b+1])\n",
        "    with torch.no_grad():\n        features = self.generator(x[b:b+1])\n",
    ),
    ("    start = b * N\n", "    start: int = b * N\n"),
)
SLICED = {
    "low[rows].mean().item()": "mean_low[b]",
    "high[rows].mean().item()": "mean_high[b]",
    "lags[N * b].tolist()": "first_lags[b]",
}
FORKS: list[tuple[str, dict[str, str], str]] = [
    (BODY, READS, CALL),
    (replaced(BODY, ("x.size()", "x.shape")), READS, CALL),
    (replaced(BODY, ("range(B)", "range(len(x))")), READS, CALL),
    (replaced(BODY, ("range(B)", "range(x.shape[0])")), READS, CALL),
    (replaced(BODY, ("range(B)", "range(0, B)")), READS, CALL),
    (replaced(BODY, ("range(B)", "range(0, B, 1)")), READS, CALL),
    (replaced(BODY, ("for b in range(B)", "for b, _ in enumerate(x)")), READS, CALL),
    (WITHOUT_GRADIENTS, READS, CALL),
    (replaced(BODY, ("(b + 1) * N", "start + N")), READS, CALL),
    (
        replaced(BODY, ("    start = b * N\n    end = (b + 1) * N\n", "    start, end = b * N, N * (b + 1)\n")),
        READS,
        CALL,
    ),
    (
        replaced(BODY, ("B, T, N = x.size()", "B = x.shape[0]\nN = x.shape[2]"), ("range(B)", "range(x.size(0))")),
        READS,
        CALL,
    ),
    (replaced(BODY, ("B, T, N = x.size()", "B = len(x)\nN = x.size(-1)")), READS, CALL),
    (replaced(BODY, ("    start = b", "    if features is None:\n        continue\n    start = b")), READS, CALL),
    (replaced(BODY, ("(b + 1) * N", "N * (b + 1)")), READS, CALL),
    (
        replaced(
            BODY,
            ("    start = b * N\n    end = (b + 1) * N\n", "    rows = slice(b * N, (b + 1) * N)\n"),
            ("low[start:end]", "low[rows]"),
            ("high[start:end]", "high[rows]"),
            ("lags[start]", "lags[N * b]"),
        ),
        SLICED,
        CALL,
    ),
    (
        replaced(BODY, ('        "lags": lags[start].tolist(),\n', "")),
        {name: text for name, text in READS.items() if "lags" not in name},
        "[mean_low, mean_high], [] = _of_samples(N, [low, high], [])\n",
    ),
    (replaced(BODY, ("    prompts.append", "    print(features)\n    prompts.append")), READS, CALL),
    (replaced(BODY, ("return self", "print(low)\nreturn self")), READS, CALL),
]


@pytest.mark.parametrize(("body", "reads", "call"), FORKS)
def test_lands(body: str, reads: dict[str, str], call: str) -> None:
    lands(NAME, module(body), changed(body, reads, call))


def test_a_list_that_several_have() -> None:
    """Each of them has its own, so that one may be sorted."""
    body = replaced(
        BODY, ("    prompts.append", "    recent = lags[start].tolist()\n    recent.sort()\n    prompts.append")
    )
    refuses(NAME, module(body), Ambiguous, "lags is read in several places")


GIVEN = [
    "if self.top_k:\n    lags = self.calcute_lags(x)\nelse:\n    lags = self.nearest(x)",
    "lags = None\nlags = self.calcute_lags(x)",
    "lags: torch.Tensor = self.calcute_lags(x)",
]
NOT_GIVEN = [
    "if self.top_k:\n    lags = self.calcute_lags(x)",
    "if self.top_k:\n    lags = self.calcute_lags(x)\nelse:\n    print(x)",
    "lags = None\nif self.top_k:\n    lags = self.calcute_lags(x)",
    "lags: torch.Tensor = None\nif self.top_k:\n    lags = self.calcute_lags(x)",
    "lags: torch.Tensor\nif self.top_k:\n    lags = self.calcute_lags(x)",
    "lags, k = None, 1\nif self.top_k:\n    lags = self.calcute_lags(x)",
    "lags = self.calcute_lags(x) if self.top_k else None",
    "lags = self.calcute_lags(x)\ndel lags",
]


@pytest.mark.parametrize("given", GIVEN)
def test_where_tensors_come_from(given: str) -> None:
    body = replaced(BODY, ("lags = self.calcute_lags(x)", given))
    lands(NAME, module(body), changed(body))


def test_tensors_that_are_parameters() -> None:
    body = replaced(BODY, ("lags = self.calcute_lags(x)\n", ""))
    outcome = plan(NAME, module(body, "def forecast(self, x, lags):"))
    assert outcome.kind == PLANNED, outcome.message
    refuses(NAME, module(body, "def forecast(self, x, lags=None):"), Ambiguous, "where lags comes from")


@pytest.mark.parametrize("given", NOT_GIVEN)
def test_tensors_that_may_not_be_there(given: str) -> None:
    refuses(NAME, module(replaced(BODY, ("lags = self.calcute_lags(x)", given))), Ambiguous, "where lags comes from")


def test_lands_with_a_progress_bar() -> None:
    bar = "import torch\nfrom tqdm.auto import tqdm"
    text = with_class(bar, CLASS, {HEADER: BODY.replace("@", "").replace("range(B)", "tqdm(range(B), desc='prompts')")})
    outcome = plan(NAME, text)
    assert outcome.kind == PLANNED, outcome.message


def test_lands_with_other_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(module()), with_tabs(changed()))


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, ("build_prompt_text", "describe")),
        replaced(BODY, ("range(B)", "range(N)")),
        replaced(BODY, ("range(B)", "range(1, B)")),
        replaced(BODY, ("range(B)", "range(0, B, 2)")),
        replaced(BODY, ("range(B)", "shuffled(range(B))")),
        replaced(BODY, ("range(B)", "tqdm(range(B))")),
        replaced(BODY, ("for b in range(B)", "for b, _ in enumerate(x, 1)")),
        replaced(BODY, ("B, T, N = x.size()", "B, T, N = self.sizes")),
        replaced(BODY, ("B, T, N = x.size()", "T, B, N = x.size()")),
        replaced(BODY, ("start = b * N", "start = b * T"), ("(b + 1) * N", "(b + 1) * 3")),
        replaced(BODY, ("start = b * N", "start = b * N + 1")),
        replaced(BODY, ("    end = (b", "    start = 0\n    end = (b")),
        replaced(BODY, ("low[start:end].mean().item()", "1"), ("high[start:end].mean().item()", "2")),
        BODY.replace(".mean().item()", ".mean(0).item()").replace("lags[start].tolist()", "lags"),
        BODY.replace(".mean().item()", ".median().item()").replace("lags[start].tolist()", "lags"),
        BODY.replace(".mean().item()", ".mean().tolist()").replace("lags[start].tolist()", "lags"),
        "# low[b * N:(b + 1) * N].mean().item() and build_prompt_text\nreturn 'build_prompt_text'@",
    ],
)
def test_nothing_to_bring(body: str) -> None:
    refuses(NAME, module(body), NoSite, "no loop over samples reads")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (replaced(BODY, ("    prompts.append", "    low = 1\n    prompts.append")), "low changes in the loop"),
        (replaced(BODY, ("    prompts.append", "    N = 3\n    prompts.append")), "N changes in the loop"),
        (replaced(BODY, ("    features", "    b = b + 0\n    features")), "b changes in the loop"),
        (replaced(BODY, ("    prompts.append", "    low[b] = 0\n    prompts.append")), "something else in the loop"),
        (replaced(BODY, ("    prompts.append", "    low.mul_(2)\n    prompts.append")), "something else in the loop"),
        (
            replaced(BODY, ("    prompts.append", "    part = low[start:end]\n    prompts.append")),
            "something else in the loop",
        ),
        (
            replaced(BODY, ("    prompts.append", "    torch.add(high, 1, out=low)\n    prompts.append")),
            "something else in the loop",
        ),
        (replaced(BODY, ("    prompts.append", "    text = lambda: b\n    prompts.append")), "than can be told"),
        (replaced(BODY, ("    start = b", "    flat[b] = 0.0\n    start = b")), "in place"),
        (replaced(BODY, ("    start = b", "    torch.mul(flat, 2, out=flat)\n    start = b")), "in place"),
        (replaced(BODY, ("low, high = x.amin(1), x.amax(1)\n", "high = x.amax(1)\n")), "where low comes from"),
        (f"for epoch in range(3):\n{block(BODY.replace('@', ''), 4)}@", "in another loop"),
    ],
)
def test_numbers_that_may_be_others(body: str, reason: str) -> None:
    refuses(NAME, module(body), Ambiguous, reason)


def test_two_loops() -> None:
    twice = with_class(
        "import torch", CLASS, {f"def {n}(self, x):": BODY.replace("@", "") for n in ("forecast", "impute")}
    )
    refuses(NAME, twice, Ambiguous, "2 loops do")


def test_names_that_are_taken() -> None:
    refuses(NAME, module(replaced(BODY, ("prompts = []", "prompts = []\nmean_low = 1"))), Conflict, "mean_low")
    refuses(NAME, module() + "\n\n_of_samples = 1\n", Conflict, "_of_samples")
    refuses(NAME, module(header="@torch.compile\n    def forecast(self, x):"), Conflict, "decorated")


def test_by_half() -> None:
    refuses(NAME, changed().replace("        " + CALL, ""), PartlyApplied, "_of_samples is defined 1 times")


def test_where_torch_is_something_else() -> None:
    refuses(NAME, module().replace("import torch", "import tensors as torch"), Ambiguous, "torch is not imported")


# What it gives

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
SPACE: dict[str, Any] = {"torch": torch}
exec(HELPER, SPACE)
of_samples = SPACE["_of_samples"]


def one_by_one(n_vars: int, averaged: list[Any], first: list[Any]) -> tuple[list[Any], list[Any]]:
    """What the loop reads."""
    samples = range(len(averaged[0]) // n_vars)
    means = [[x[b * n_vars : (b + 1) * n_vars].mean().item() for b in samples] for x in averaged]
    return means, [[x[b * n_vars].tolist() for b in samples] for x in first]


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("n_vars", [1, 2, 3, 7, 21, 321])
def test_the_same_numbers(kind: str, n_vars: int) -> None:
    generator = torch.Generator().manual_seed(n_vars)
    averaged = [torch.randn(5 * n_vars, 1, generator=generator).to(getattr(torch, kind)) * 10.0**i for i in (-9, 0, 4)]
    first = [torch.randint(0, 2**52, (5 * n_vars, 5), generator=generator), averaged[0].repeat(1, 2)]
    found, expected = of_samples(n_vars, averaged, first), one_by_one(n_vars, averaged, first)
    assert str(found) == str((expected[0], expected[1]))
    assert str(of_samples(n_vars, [], first)) == str(([], expected[1]))
    assert str(of_samples(n_vars, averaged, [])) == str((expected[0], []))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 3e38])
def test_numbers_that_are_hard_to_keep(value: float) -> None:
    x = torch.tensor([[1.0], [value], [2.0], [value]])
    assert str(of_samples(2, [x], [x])) == str(one_by_one(2, [x], [x]))


@pytest.mark.parametrize(
    ("averaged", "first"),
    [
        ([numpy.ones((6, 1)), torch.ones(6, 1)], [torch.ones(6, 5)]),
        ([torch.ones(6, 1)], [numpy.arange(30).reshape(6, 5)]),
        ([torch.arange(6.0)], [torch.ones(6, 5)]),
        ([torch.ones(6, 1)], [torch.ones(6, 5, 2)]),
        ([torch.randn(1, 1).expand(6, 1)], [torch.ones(6, 5)]),
    ],
)
def test_other_kinds_of_tensors(averaged: list[Any], first: list[Any]) -> None:
    assert str(of_samples(2, averaged, first)) == str(one_by_one(2, averaged, first))


def test_no_rows() -> None:
    assert of_samples(3, [torch.zeros(0, 1)], [torch.zeros(0, 5)]) == ([[]], [[]])


def test_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_for(monkeypatch, "cpu", "item", "__bool__", "__array__")
    of_samples(2, [torch.randn(64, 1)] * 3, [torch.zeros(64, 5, dtype=torch.int64)])
    assert asked == ["cpu"]
