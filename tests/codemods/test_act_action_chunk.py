"""``act_action_chunk``: reads of all actions from a moment on, and the two arrays that they go to."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from act import REFERENCE, TARGET, make_episodes, module_of, text_with
from cases import above, lands, plan, refuses, replaced, with_class, with_tabs

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import PLANNED
from apply_opt.worker.__main__ import load_file

NAME, MOST = "act_action_chunk", "_MOST_ACTIONS"
TOP, CLASS = "import h5py\nimport numpy as np\nimport torch", "class Episodes(torch.utils.data.Dataset):\n"
READ = "action = root['/action'][start_ts:]"
LATER = "action = root['/action'][max(0, start_ts - 1):]"
BODY = f"""
with h5py.File(self.path(index), 'r') as root:
    steps = len(root['/action'])
    start_ts = np.random.choice(steps)
    if self.is_sim:
        {READ}
        count = steps - start_ts
    else:
        {LATER}  # seen a step ago
        count = steps - max(0, start_ts - 1)
padded = np.zeros((steps, 4), dtype=np.float32)
padded[:count] = action
is_pad = np.zeros(steps)
is_pad[count:] = 1
return torch.from_numpy(padded).float(), torch.from_numpy(is_pad).bool()
"""
CUT = (
    (READ, f"action = root['/action'][start_ts:start_ts + {MOST}]"),
    (LATER, f"action = root['/action'][max(0, start_ts - 1):max(0, start_ts - 1) + {MOST}]"),
    ("dtype=np.float32)", f"dtype=np.float32)[:{MOST}]"),
    ("np.zeros(steps)", f"np.zeros(steps)[:{MOST}]"),
)


def module(body: str = BODY, header: str = "def __getitem__(self, index):") -> str:
    return with_class(TOP, CLASS, {header: body})


def after(text: str, chunk: int = 100) -> str:
    words = "actions of an item, or fewer: as many as the policy predicts (num_queries, --chunk_size), or more"
    return above(text, "class ", f"{MOST} = {chunk}  # {words}")


def test_lands() -> None:
    done = module(replaced(BODY, *CUT))
    lands(NAME, module(), after(done))
    lands(NAME, with_tabs(module()), with_tabs(after(done, 7)), chunk=7)


def test_lands_on_the_reference() -> None:
    made = text_with(NAME, REFERENCE)
    assert f'action = root["/action"][first:first + {MOST}]' in made
    assert made.count(f"[:{MOST}]") == 2


@pytest.mark.parametrize(
    "changes",
    [
        ((READ, "action = root['action'][start_ts:]"),),
        (
            ("padded[:count] = action", "padded[: len(action)] = action"),
            ("is_pad[count:] = 1", "is_pad[len(action) :] = True"),
        ),
        (("padded[:count] = action", "padded[:action.shape[0]] = action"),),
        (
            ("padded[:count] = action", "_timer.start()\npadded[:count] = action\n_timer.stop()"),
            ("return torch.from_numpy(padded).float()", "padded = torch.from_numpy(padded).float()\nreturn padded"),
        ),
    ],
)
def test_other_forms(changes: tuple[tuple[str, str], ...]) -> None:
    outcome = plan(NAME, module(replaced(BODY, *changes)))
    assert outcome.kind == PLANNED, outcome.message
    assert plan(NAME, outcome.after.decode()).kind != PLANNED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((("padded[:count] = action", "padded[:count] = action\npadded[count:] = action[-1]"),), "may be needed"),
        ((("padded[:count] = action", "padded[:count] = action - action.mean(0)"),), "may be needed"),
        ((("padded[:count] = action", "padded[:count] = action\nself.keep(action)"),), "may be needed"),
        ((("padded[:count] = action", "padded[1:count] = action"),), "may be needed"),
        ((("padded[:count] = action", "padded[:count] = action\nprint(padded.mean())"),), "actions may be needed"),
        ((("padded[:count] = action", "padded[:count] = action\nlast = padded[-1]"),), "actions may be needed"),
        ((("is_pad[count:] = 1", "is_pad[count:] = 1\nprint(is_pad.sum())"),), "padding may be needed"),
        ((("padded = np.zeros(", "padded = np.ones("),), "numpy.zeros"),
        ((("padded[:count] = action", "padded[:count] = action\nother[:count] = action"),), "fill 2 arrays"),
        ((("padded[:count] = action", "padded[:count] = action\npadded = self.draw()"),), "numpy.zeros"),
        ((("is_pad = np.zeros(steps)", "is_pad = np.zeros(steps) > 1"),), "padding"),
        (((READ, "other = root['/action'][start_ts:]"),), "more than one variable"),
        (((READ, "action, other = root['/action'][start_ts:], 3"),), "more than one variable"),
        (((READ, "action = root['/action'][start_ts:] * 2"),), "more than one variable"),
        (((READ, "action = root['/action'][draw():]"),), "worked out by"),
        (((READ, "action = root['/action'][-start_ts:]"),), "from the end"),
        (((READ, "action = root['/action'][start_ts - 1:]"),), "from the end"),
        (((READ, f"{READ}\n        action = action * 2"),), "more than one variable"),
    ],
)
def test_where_all_actions_may_be_needed(changes: tuple[tuple[str, str], ...], words: str) -> None:
    refuses(NAME, module(replaced(BODY, *changes)), Ambiguous, words)


@pytest.mark.parametrize(
    "text",
    [
        module(header="def statistics(self, index):"),
        module(replaced(BODY, (READ, "pass"), (LATER, "action = root['/action'][()]"))),
        module(BODY.replace("'/action'", "'/reward'")),
        module("return \"root['/action'][0:]\""),
    ],
)
def test_no_item_reads_all_actions(text: str) -> None:
    refuses(NAME, text, NoSite, "no item of a data set reads all actions")


def test_no_padding() -> None:
    refuses(NAME, module(replaced(BODY, ("is_pad[count:] = 1", "pass"))), NoSite, "0 arrays say which")


def test_half_done() -> None:
    done = after(module(replaced(BODY, *CUT)))
    refuses(NAME, done.replace(f"{MOST} = 100", "other = 100"), PartlyApplied, "is set 0 times")
    refuses(NAME, replaced(done, CUT[0][::-1]), PartlyApplied, "partly applied")
    refuses(NAME, replaced(module(), ("import torch", f"import torch\n{MOST} = 3")), PartlyApplied, "set 1 times")
    refuses(NAME, replaced(module(), ("import torch", f"import torch\ndef {MOST}(): pass")), Conflict, "already uses")


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[list[Any]]:
    """The reference tree's file as it is, and with at most 5 actions; episodes of 12."""
    pytest.importorskip("h5py")
    make_episodes(tmp_path / "episodes", count=5, steps=12, height=8, width=9, cameras=["top"])
    texts = {"act_utils_whole": REFERENCE, "act_utils_cut": text_with(NAME, chunk=5)}
    yield [module_of(text, tmp_path, name) for name, text in texts.items()]
    for name in texts:
        del sys.modules[name]


def test_items(modules: list[Any], tmp_path: Path) -> None:
    """The same up to the cut, near an episode's end too, and random numbers drawn alike."""
    import numpy
    import torch

    made, states = [], []
    for module in modules:
        folder = str(tmp_path / "episodes")
        data = module.EpisodicDataset(range(5), folder, ["top"], module.get_norm_stats(folder, 5))
        module.set_seed(1)
        made.append([data[number % 5] for number in range(60)])
        states.append(numpy.random.get_state()[1].tolist())
    assert states[0] == states[1]
    for (*whole, actions, is_pad), (*cut, fewer, fewer_pad) in zip(*made):
        assert all(torch.equal(a, b) for a, b in zip(whole, cut))
        assert fewer.shape == (5, 4)
        assert torch.equal(actions[:5], fewer)
        assert torch.equal(is_pad[:5], fewer_pad)
        assert fewer.dtype == actions.dtype
        assert fewer_pad.dtype == is_pad.dtype


@pytest.mark.parametrize(("chunk", "is_same"), [(10, True), (11, True), (9, False)])
def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, is_same: bool) -> None:
    """Two epochs of the reference tree's script, with a policy of 10 actions, give the same losses and weights, bit for bit.

    With ACT's own policy the last bits of a bias may differ: a slice of a longer tensor has gaps in memory.
    """
    pytest.importorskip("h5py")
    torch = pytest.importorskip("torch")
    for thing in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(thing, "cuda", thing.cuda)  # the workload has its own
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    make_episodes(tmp_path / "episodes", count=5, steps=13, height=24, width=24, cameras=["top"], joints=14)
    made = [_trained(tmp_path, text) for text in (REFERENCE, text_with(NAME, chunk=chunk))]
    if not is_same:
        assert isinstance(made[1], Exception)  # fewer actions than the policy predicts
        return
    assert made[0]["losses"] == made[1]["losses"]
    for name, weights in made[0]["weights"].items():
        assert all(torch.equal(value, made[1]["weights"][name][key]) for key, value in weights.items())


def _trained(folder: Path, utils: str) -> Any:
    """What the training script makes with this data set, or what is raised."""
    epochs: Any = load_file(str(TARGET / "workload.py"), "_act_chunks").epochs  # type: ignore[attr-defined]
    tree = folder / f"tree_{len(list(folder.iterdir()))}"
    shutil.copytree(TARGET / "reference", tree)
    (tree / "utils.py").write_text(utils)
    before = dict(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tree))
        script = epochs.load({"file": "utils.py"})
        try:
            return epochs.run(script, str(folder / "episodes"), 5, ["top"], steps=13, batch=2, seed=1)
        except Exception as error:
            return error
        finally:
            for name in set(sys.modules) - set(before):
                if name in ("utils", "policy", "detr", "detr.main", "sim_env", "imitate_episodes"):
                    del sys.modules[name]
