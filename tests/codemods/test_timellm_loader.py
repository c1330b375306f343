"""``timellm_loader``: loaders that make batches by default_collate, and batches that are the same, bit by bit."""

from __future__ import annotations

import collections
import pickle
import sys
import types
import warnings
from typing import Any

import pytest
from cases import constant, lands, plan, refuses, replaced
from support import ROOT

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY, PLANNED

NAME = "timellm_loader"
HELPER = constant(NAME, "HELPER_TEXT")
FOLDER = ROOT / "target_repos" / "time_llm" / "reference" / "data_provider"
REFERENCE = (FOLDER / "data_factory.py").read_text(encoding="utf-8")
TOP = "from torch.utils.data import DataLoader\n\n\n"
MODULE = f"""{TOP}def data_provider(args, flag):
    size = args.batch_size
    data_set = Data(args, flag)
    data_loader = DataLoader(
        data_set,
        batch_size=size,
        shuffle=flag == 'train',
        drop_last=True)
    return data_set, data_loader
"""
LAST = "        drop_last=True)\n"


def changed(
    text: str, old: str = LAST, new: str = "        drop_last=True,\n        collate_fn=_batch_of_arrays)\n"
) -> str:
    """The module with the helper above the function, and one more argument."""
    return replaced(text, (old, new), ("def data_provider", HELPER.strip("\n") + "\n\n\ndef data_provider"))


def test_lands() -> None:
    lands(NAME, MODULE, changed(MODULE))


def test_the_reference() -> None:
    after = plan(NAME, REFERENCE).after.decode()
    assert "        drop_last=True,\n        collate_fn=_batch_of_arrays,\n    )\n" in after


CALLS = [
    ("DataLoader(data_set, size, True)", "DataLoader(data_set, size, True, collate_fn=_batch_of_arrays)"),
    ("DataLoader(data_set)", "DataLoader(data_set, collate_fn=_batch_of_arrays)"),
    ("DataLoader(data_set, batch_sampler=pairs)", "DataLoader(data_set, batch_sampler=pairs, collate_fn=_batch_of_arrays)"),
    ("DataLoader(data_set, 1 +\n        2)", "DataLoader(data_set, 1 +\n        2, collate_fn=_batch_of_arrays)"),
    ("DataLoader(data_set, 8, True, None, None, 0)", "DataLoader(data_set, 8, True, None, None, 0, collate_fn=_batch_of_arrays)"),
    ("DataLoader(\n        data_set,\n    )", "DataLoader(\n        data_set,\n        collate_fn=_batch_of_arrays,\n    )"),
    ("DataLoader(data_set, 8, shuffle=(size == 1))", "DataLoader(data_set, 8, shuffle=(size == 1), collate_fn=_batch_of_arrays)"),
    ("DataLoader((data_set),)", "DataLoader((data_set), collate_fn=_batch_of_arrays,)"),
    ("DataLoader(\n        data_set,  # all\n    )", "DataLoader(\n        data_set,\n        collate_fn=_batch_of_arrays,  # all\n    )"),
    ("DataLoader(data_set, shuffle=True)  # all", "DataLoader(data_set, shuffle=True, collate_fn=_batch_of_arrays)  # all"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "with_collate"), CALLS)
def test_calls(call: str, with_collate: str) -> None:
    text = f"{TOP}def data_provider(data_set, size):\n    loader = {call}\n    return loader\n"
    lands(NAME, text, changed(text, call, with_collate))


IMPORTS = [
    ("from torch.utils import data", "data.DataLoader"),
    ("import torch", "torch.utils.data.DataLoader"),
    ("import torch.utils.data as loading", "loading.DataLoader"),
    ("from torch.utils.data import DataLoader as Loader", "Loader"),
]


@pytest.mark.parametrize(("line", "name"), IMPORTS)
def test_other_imports(line: str, name: str) -> None:
    text = MODULE.replace("DataLoader(", f"{name}(").replace(TOP.strip(), line)
    lands(NAME, text, changed(text))


@pytest.mark.parametrize(("old", "new"), [("    ", "\t"), ("\n", "\r\n")])
def test_other_layouts(old: str, new: str) -> None:
    outcome = plan(NAME, MODULE.replace(old, new))
    assert outcome.kind == PLANNED
    assert outcome.after.decode() == changed(MODULE).replace(old, new)
    assert plan(NAME, outcome.after).kind == ALREADY


def test_several_loaders() -> None:
    text = f"{TOP}def loaders(a, b, c):\n    one, two = DataLoader(a), DataLoader(b, 4)\n"
    text += "    return one, two, DataLoader(c, collate_fn=mine)\n"
    after = plan(NAME, text).after.decode()
    assert (
        "one, two = DataLoader(a, collate_fn=_batch_of_arrays), DataLoader(b, 4, collate_fn=_batch_of_arrays)\n"
        in after
    )
    assert "DataLoader(c, collate_fn=mine)" in after


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("drop_last=True)", "drop_last=True, collate_fn=own)"),
        ("from torch.utils.data", "from torch_geometric.loader"),
        ("from torch.utils.data import DataLoader\n", "class DataLoader:\n    pass\n"),
        (MODULE, f"EXAMPLE = '''\n{MODULE.replace(chr(39), chr(34))}'''\n"),
        ("DataLoader(\n", "Loader(\n"),
    ],
)
def test_no_site(old: str, new: str) -> None:
    refuses(NAME, replaced(MODULE, (old, new)), NoSite)


@pytest.mark.parametrize("size", ["batch_size=None", "batch_size=None if flag else 3"])
def test_samples_one_by_one(size: str) -> None:
    refuses(NAME, replaced(MODULE, ("batch_size=size", size)), Ambiguous, "without a batch size")
    refuses(NAME, replaced(MODULE, ("size = args.batch_size", "size = None")), Ambiguous, "without a batch size")


def test_arguments_that_are_not_seen() -> None:
    refuses(NAME, replaced(MODULE, ("drop_last=True)", "**more)")), Ambiguous, "not to be seen")
    refuses(
        NAME,
        replaced(MODULE, ("        data_set,\n        batch_size=size", "        *given")),
        Ambiguous,
        "not to be seen",
    )


def test_another_default_collate() -> None:
    more = "from torch.utils.data._utils.collate import default_collate_fn_map\n"
    refuses(NAME, MODULE.replace(TOP, more + TOP), Conflict, "default_collate_fn_map")


def test_half_of_it() -> None:
    done = changed(MODULE)
    refuses(NAME, done.replace("        collate_fn=_batch_of_arrays)", "        )"), PartlyApplied)
    refuses(NAME, done.replace(HELPER.strip("\n"), ""), PartlyApplied)
    refuses(NAME, MODULE + "\n_batch_of_arrays = 3\n", Conflict, "already uses the name")


# What it does

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate  # noqa: E402

OWN = types.ModuleType("_timellm_loader_under_test")
exec(HELPER, vars(OWN))
sys.modules[OWN.__name__] = OWN
OWN._batch_of_arrays.__module__ = OWN.__name__
ours = OWN._batch_of_arrays
Pair = collections.namedtuple("Pair", "x y")


def bits(value: Any) -> Any:
    """All that there is to a batch, to be compared."""
    if isinstance(value, torch.Tensor):
        data = (
            value.contiguous().flatten().view(torch.uint8).tolist() if value.numel() and value.dim() else value.tolist()
        )
        return (value.dtype, value.shape, value.stride(), value.device, value.requires_grad, data)
    if isinstance(value, dict):
        return type(value), [(key, bits(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [bits(item) for item in value]
    return type(value), value


def outcome(collate: Any, samples: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arrays that are not writable: torch says that once for a process
        try:
            return bits(collate(samples))
        except Exception as error:
            return type(error), str(error)


SERIES = numpy.random.default_rng(0).normal(size=(60, 3))
FIXED = SERIES.copy()
FIXED.flags.writeable = False
KINDS = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"]
SAMPLES: dict[str, Any] = {
    "windows": [(SERIES[i : i + 8, j : j + 1], SERIES[i : i + 5]) for i in (3, 1, 40) for j in (0, 2)],
    **{kind: [(SERIES[i : i + 8].astype(kind), SERIES[i].astype(kind)) for i in range(3)] for kind in KINDS},
    "several kinds": [(SERIES[:4].astype(kind),) for kind in ("float64", "float32", "int32")],
    "others first": [(SERIES[:4].astype(kind),) for kind in ("int32", "float32", "float64")],
    "columns": [(SERIES.T[:, i : i + 4], numpy.asfortranarray(SERIES[i : i + 4])) for i in range(3)],
    "every second step": [(SERIES[i : i + 9 : 2],) for i in range(3)],
    "backwards": [(SERIES[i : i + 4][::-1],) for i in range(3)],
    "one backwards, another of objects": [(SERIES[:4], SERIES[:4][::-1]), (numpy.array([None]), SERIES[:4])],
    "one backwards": [(SERIES[:4],), (SERIES[:4][::-1],)],
    "not writable": [(FIXED[i : i + 4],) for i in range(3)],
    "another byte order": [(SERIES.astype(">f8"),)] * 2,
    "other lengths": [(SERIES[: i + 2],) for i in range(3)],
    "other counts": [(SERIES, SERIES), (SERIES,)],
    "numbers": [(SERIES[:4], i, i / 2) for i in range(3)],
    "one number": [(numpy.array(1.5), SERIES[0, 0]), (numpy.array(2.5), SERIES[1, 0])],
    "arrays of one number": [(numpy.array(1.5),), (numpy.array(2.5),)],
    "texts": [(SERIES[:4], "a"), (SERIES[:4], "b")],
    "arrays of texts": [(numpy.array(["a"]),), (numpy.array(["b"]),)],
    "arrays of objects": [(numpy.array([None]),)] * 2,
    "dates": [(numpy.array(["2020-01-01"], "M8[D]"),)] * 2,
    "tensors": [(torch.ones(3), torch.zeros(2))] * 2,
    "tensors and arrays": [(torch.ones(3), SERIES[:4])] * 2,
    "an array, then a tensor": [(SERIES[:3],), (torch.ones(3, 3),)],
    "a tensor, then an array": [(torch.ones(3, 3),), (SERIES[:3],)],
    "lists": [[SERIES[:4], SERIES[4:8]]] * 2,
    "a list, then a tuple": [[SERIES[:4]], (SERIES[:4],)],
    "a tuple, then a list": [(SERIES[:4],), [SERIES[:4]]],
    "named tuples": [Pair(SERIES[:4], SERIES[4:8])] * 2,
    "dictionaries": [{"x": SERIES[:4]}] * 2,
    "arrays alone": [SERIES[:4], SERIES[4:8]],
    "tuples in tuples": [((SERIES[:4],), SERIES[:4])] * 2,
    "a memory map": [(SERIES[:4].view(numpy.memmap),)] * 2,
    "masked": [(numpy.ma.masked_array(SERIES[:4]),)] * 2,
    "empty arrays": [(SERIES[:0],)] * 2,
    "empty tuples": [()] * 2,
    "one sample": [(SERIES[:4],)],
    "no samples": [],
    "a tuple of samples": ((SERIES[:4],), (SERIES[4:8],)),
    "one tuple of arrays": (SERIES[:4], SERIES[4:8]),
    "NaN": [(numpy.array([float("nan"), -0.0, float("inf")]),)] * 2,
}


@pytest.mark.parametrize("what", SAMPLES)
def test_the_same_batch(what: str) -> None:
    samples = SAMPLES[what]
    assert outcome(ours, samples) == outcome(default_collate, samples)


def test_samples_are_copied() -> None:
    array = numpy.zeros((2, 3))
    ((batch,),) = [ours([(array[:1],), (array[1:],)])]
    batch += 1
    assert not array.any() and batch.shape == (2, 1, 3)
    batch.resize_(40)  # as one that torch has made


def test_tensors_that_are_made_elsewhere() -> None:
    with torch.device("meta"):
        assert outcome(ours, SAMPLES["windows"]) == outcome(default_collate, SAMPLES["windows"])
        assert ours(SAMPLES["windows"])[0].device.type == "meta"


class Windows(Dataset[Any]):
    def __len__(self) -> int:
        return 52

    def __getitem__(self, index: int) -> Any:
        if not -52 <= index < 52:
            raise IndexError(f"no window {index}")
        return SERIES[index % 52 :][:8, 1:2], SERIES[index % 52 :][:5]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([Windows()[i] for i in range(11)])


class AtOnce(Windows):
    def __getitems__(self, indices: Any) -> Any:
        return [self[i] for i in indices]


def batches(collate: Any, **options: Any) -> Any:
    """All batches, or the exception."""
    torch.manual_seed(3)
    options = {"dataset": Windows(), "batch_size": 5, "collate_fn": collate, **options}
    try:
        found = [bits(batch) for batch in DataLoader(**options)]
    except IndexError as error:
        found = [repr(error).partition("Traceback")[0], str(error).splitlines()[-1]]
    return found, torch.get_rng_state().tolist()


LOADERS: dict[str, dict[str, Any]] = {
    "in order": {},
    "shuffled": {"shuffle": True, "drop_last": True},
    "a subset": {"dataset": Subset(Windows(), [5, 1, -1, 30, 2])},
    "a subset of windows that are taken at once": {"dataset": Subset(AtOnce(), [5, 1, 30, 2])},
    "a stream": {"dataset": Stream()},
    "other indices": {"sampler": [-1, -52, 3, 3, 7]},
    "an index out of range": {"sampler": [1, 52]},
    "lists of indices": {"batch_sampler": [[1, 2], [5]], "batch_size": 1},
    "workers": {"num_workers": 2},
}


@pytest.mark.parametrize("what", LOADERS)
def test_the_same_batches(what: str) -> None:
    assert batches(ours, **LOADERS[what]) == batches(None, **LOADERS[what])


def test_for_workers_that_are_spawned() -> None:
    assert pickle.loads(pickle.dumps(ours)) is ours
