"""``timellm_prompt_stats``: only ahead of a loop that reads variables row by row, and where nobody else reads them."""

from __future__ import annotations

import pytest
from cases import above, block, constant, lands, plan, refuses, replaced, skips, with_class, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "timellm_prompt_stats"
HELPER = constant(NAME, "HELPER_TEXT")
CLASS = "class Model(torch.nn.Module):\n"
BODY = """
B, T, N = x.size()
low = torch.min(x, dim=1)[0]
middle = torch.median(x, dim=1).values
lags = self.calcute_lags(x)
slopes = x.diff(dim=1).sum(dim=1)
prompts = []
@
for b in range(x.shape[0]):
    low_str = str(low[b].tolist()[0])
    text = (
        f"from {low_str}, median {middle[b].item()}, "
        f"going {'up' if slopes[b] > 0 else 'down'}, lags {lags[b].tolist()}"
    )
    prompts.append(text)
return self.tokenizer(prompts)
"""
CALL = "low, middle, lags, slopes = _on_host(low, middle, lags, slopes)"


def module(body: str = BODY, top: str = "import torch", header: str = "def forecast(self, x):", more: str = "") -> str:
    """A model whose method is this, without the line that says where the call goes."""
    body = "\n".join(line for line in body.split("\n") if line.strip() != "@")
    return with_class(top, CLASS, {header: body}, more)


def changed(body: str = BODY, call: str = CALL, header: str = "def forecast(self, x):") -> str:
    """The same with the change in it: the call where the line ``@`` is."""
    return above(with_class("import torch", CLASS, {header: body.replace("@", call)}), CLASS, HELPER)


FORKS = [
    (BODY, CALL),
    (replaced(BODY, ("range(x.shape[0])", "range(B)")), CALL),
    (replaced(BODY, ("for b in range(x.shape[0]):", "for b, window in enumerate(x):")), CALL),
    (replaced(BODY, ("{'up' if slopes[b] > 0 else 'down'}", "{'up' if not slopes[b] <= 0 else 'down'}")), CALL),
    (replaced(BODY, ("if slopes[b] > 0", "if slopes[b] > 0 and low[b] < 1.0")), CALL),
    (replaced(BODY, ("low[b].tolist()[0]", "low[b, 0].tolist()")), CALL),
    (replaced(BODY, ("low[b].tolist()[0]", "low[b][0].item()")), CALL),
    (replaced(BODY, ("{middle[b].item()}", "{middle[b].item():.3f}")), CALL),
    (
        replaced(BODY, ("    prompts.append", "    if slopes[b] == 0:\n        text += ' flat'\n    prompts.append")),
        CALL,
    ),
    (BODY + "del low\n", CALL),
    (replaced(BODY, ("return self", "low = len(prompts)\nreturn self")), CALL),
    (
        """
        low, high = x.amin(1), x.amax(1)
        @
        prompts = ["from {} to {}".format(low[i].item(), high[i].item()) for i in range(len(x))]
        """,
        "low, high = _on_host(low, high)",
    ),
    (
        """
        low, high = x.amin(1), x.amax(1)
        @
        return self.tokenizer([f"from {low[i].item()} to {high[i].tolist()}" for i, _ in enumerate(x)])
        """,
        "low, high = _on_host(low, high)",
    ),
    (
        """
        if x is None:
            return None
        low, high = x.amin(1), x.amax(1)
        if self.plain:
            prompts = [self.generator(x)]
        else:
            # as ever
            @
            for row in range(len(x)):
                prompts.append("from " + str(low[row].item()) + " to " + str(high[row].item()))
        return prompts
        """,
        "low, high = _on_host(low, high)",
    ),
]


@pytest.mark.parametrize(("body", "call"), FORKS)
def test_lands(body: str, call: str) -> None:
    lands(NAME, module(block(body)), changed(block(body), call))


def test_lands_with_a_progress_bar() -> None:
    top = "import torch\nimport tqdm"
    text = module(block(BODY).replace("in range(x.shape[0]):", "in tqdm.tqdm(range(x.shape[0])):"), top)
    assert plan(NAME, text).kind == PLANNED, text
    refuses(NAME, text.replace("import tqdm", "import other as tqdm"), NoSite, "no loop writes prompts")


def test_lands_on_parameters() -> None:
    body = block(BODY).split("slopes = x.diff(dim=1).sum(dim=1)\n")[1]
    header = "def write(self, x, low, middle, lags, *, slopes=None):"
    lands(NAME, module(body, header=header), changed(body, header=header))
    free = f"import torch\n\n\ndef write(x, low, middle, lags, slopes):\n{block(body, 4)}\n"
    before, after = free.replace("    @\n", ""), free.replace("@", CALL.replace("self.", ""))
    lands(NAME, before, above(after, "def write", HELPER))


def test_lands_with_other_line_endings_and_tabs() -> None:
    lands(NAME, with_tabs(module()), with_tabs(changed()))


def test_the_same_loop_in_two_methods() -> None:
    headers = ("def forecast(self, x):", "def impute(self, x):")
    before = with_class("import torch", CLASS, {header: BODY.replace("@\n", "") for header in headers})
    after = with_class("import torch", CLASS, {header: BODY.replace("@", CALL) for header in headers})
    lands(NAME, before, above(after, CLASS, HELPER))


@pytest.mark.parametrize(
    "body",
    [
        "return [f'{i}' for i in range(3)]",
        replaced(BODY, ("low_str = str(low[b].tolist()[0])", "low_str = ''"), ("{middle[b].item()}", ""), ("lags[b].", "lags.")),
        BODY.replace("f\"", "\"").replace("str(low", "float(low"),
        replaced(
            BODY, ("str(low[b].tolist()[0])", "''"), ("{middle[b].item()}", ""), ("if slopes[b] > 0", "if b"), ("{lags[b]", "{lags")
        ),
        BODY.replace("[b]", "[b * N : b * N + N].mean()"),
        BODY.replace("range(x.shape[0])", "self.order(x)"),
        BODY.replace("for b in range(x.shape[0]):", "for b, row in zip(range(B), low):"),
        BODY.replace("range(x.shape[0])", "enumerate(x)").replace("for b in", "for b, *_ in []:\n    pass\nfor c in"),
        BODY.replace(".tolist()", ".tolist(0)").replace(".item()", ".item(0)"),
    ],
)  # fmt: skip
def test_nothing_is_read_row_by_row(body: str) -> None:
    refuses(NAME, module(body), NoSite, "no loop writes prompts from rows")


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, ("return self", "print(low.mean())\nreturn self")),
        replaced(BODY, ("    prompts.append", "    print(low[b])\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    low[b] = 0\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    low = low + 1\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += f'{low[b].mean().item()}'\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += f'{low[b - 1].item()}'\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += f'{low[b, slopes].item()}'\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += f'{low[b].item}'\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += f'{low[b] > 0}'\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += f'{low[b] > 0 and b}'\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if b else low[b] > 0\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if low[b] > 0.1 else ''\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if low[b] > 300 else ''\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if low[b] > -1 else ''\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if low[b] == None else ''\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if low[b] == True else ''\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if low[b] > slopes[b] else ''\n    prompts.append")),
        replaced(BODY, ("    prompts.append", "    text += 'a' if 0 < low[b] < 1 else ''\n    prompts.append")),
        replaced(BODY, ("for b in range(x.shape[0]):", "for b, row in enumerate(low):")),
    ],
)
def test_read_as_a_tensor(body: str) -> None:
    refuses(NAME, module(body), Ambiguous, "is read there as a tensor")


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, ("@", "def later():\n    return low")),
        replaced(BODY, ("@", "later = lambda: low")),
        replaced(BODY, ("B, T, N", "global low\nB, T, N")),
    ],
)
def test_the_variables_of_two_functions(body: str) -> None:
    refuses(NAME, module(body), Ambiguous, "another function")


@pytest.mark.parametrize(
    "body",
    [
        replaced(BODY, ("low = torch.min(x, dim=1)[0]\n", "")),
        replaced(BODY, ("low = torch", "if N > 1:\n    low = torch")),
        replaced(BODY, ("low = torch.min(x, dim=1)[0]\n", ""), ("return self", "low = 1\nreturn self")),
    ],
)
def test_no_value_on_some_way(body: str) -> None:
    refuses(NAME, module(body, top="import torch\n\nlow = torch.zeros(3, 1)"), Ambiguous, "where low comes from")


def test_in_another_loop() -> None:
    head, loop = BODY.split("@\n")
    refuses(NAME, module(f"{head}for epoch in range(3):\n{block(loop, 4)}"), Ambiguous, "in another one")
    refuses(NAME, module(f"{head}while x:\n{block(loop, 4)}"), Ambiguous, "in another one")


def test_no_line_of_its_own() -> None:
    body = "low, high = x.amin(1), x.amax(1); return [f'{low[b].item()} {high[b].item()}' for b in range(len(x))]"
    refuses(NAME, module(body), Ambiguous, "shares its line")
    refuses(
        NAME, f"import torch\nlow = high = torch.zeros(3)\n{body.split('; ')[1].replace('return', 'x =')}", Ambiguous
    )


@pytest.mark.parametrize("decorator", ["@torch.compile", "@torch.inference_mode()", "@anything"])
def test_decorated(decorator: str) -> None:
    refuses(NAME, module().replace("    def", f"    {decorator}\n    def"), Conflict, "decorated")
    assert plan(NAME, module().replace("    def", "    @torch.no_grad()\n    def")).kind == PLANNED


@pytest.mark.parametrize("change", ["x += 1", "x[b] = 7", "torch.mul(x, 2, out=x)", "x.mul_(2)", "self.norm(x, b)"])
def test_changed_in_the_loop(change: str) -> None:
    """Rows may be views of what changes."""
    norm = {"def norm(self, y, b):": "y[b] = y[b] / 2"}
    text = with_class(
        "import torch",
        CLASS,
        {
            "def forecast(self, x):": BODY.replace("@\n", "").replace(
                "    prompts.append", f"    {change}\n    prompts.append"
            ),
            **norm,
        },
    )
    refuses(NAME, text, Ambiguous, "changed in place")


def test_scripted() -> None:
    refuses(NAME, module() + "\n\nscripted = torch.jit.script(model)\n", Conflict, "torch.jit.script")


@pytest.mark.parametrize("top", ["import numpy as torch", "import torch as t", "from torch import nn"])
def test_torch_is_something_else(top: str) -> None:
    refuses(NAME, module(top=top), Ambiguous, "torch is not imported")


def test_a_name_that_is_taken() -> None:
    refuses(NAME, module(top="import torch\n_on_host = 1"), Conflict, "_on_host")


@pytest.mark.parametrize("text", [HELPER.strip("\n"), CALL])
def test_half_of_it(text: str) -> None:
    refuses(NAME, replaced(changed(), (text, "pass")), PartlyApplied)


def test_twice_defined() -> None:
    refuses(NAME, changed() + HELPER, PartlyApplied, "defined 2 times")


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


def test_nothing_of_the_kind() -> None:
    refuses(NAME, "import torch\n", NoSite)
    refuses(NAME, "import torch\n\n\nTEXT = 'low[b].tolist() for b in range(3)'  # .item()\n", NoSite)
