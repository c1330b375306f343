"""The loaders that ``act_uint8_transfer`` writes: every batch is the same, bit by bit, whoever iterates over them."""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import pytest
from cases import plan

from apply_opt.model.plan import PLANNED

numpy = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

NAME = "act_uint8_transfer"
TEXT = """import numpy as np
import torch
from torch.utils.data import DataLoader


class Episodes(torch.utils.data.Dataset):
    def __init__(self, shape, transform=None, dtype="uint8"):
        self.shape, self.transform, self.dtype = shape, transform, dtype

    def __len__(self):
        return 7

    def __getitem__(self, index):
        if index == 99:
            raise ValueError("no item 99")
        images = torch.from_numpy(np.array(drawn(self.shape, self.dtype)))
        images = torch.einsum("k h w c -> k c h w", images)
        if self.transform:
            images = self.transform(images)
        images = images / 255.0
        return torch.full((2,), index), images, "a"


def drawn(shape, dtype):
    return np.random.randint(0, 256, shape).astype(dtype)


def loader(shape=(2, 5, 6, 3), transform=None, dtype="uint8", batch_size=3, workers=1):
    dataset = Episodes(shape, transform, dtype)
    made = DataLoader(dataset, batch_size=batch_size, num_workers=workers)
    return made
"""


def module_of(text: str, name: str) -> Any:
    found = types.ModuleType(name)
    sys.modules[name] = found
    exec(compile(text, name, "exec"), vars(found))
    return found


BEFORE = module_of(TEXT, "_act_images_before")
PLANNED_TEXT = plan(NAME, TEXT)
AFTER = module_of(PLANNED_TEXT.after.decode(), "_act_images_after")
FLIPPED = {
    "flip": lambda images: images.flip(-1),
    "floats": lambda images: images.float() * 0.7,
    "packed": torch.Tensor.contiguous,
}


def loaders(sampler: Any = None, batch_sampler: Any = None, **options: Any) -> list[Any]:
    """One of each kind; of the loader that is made, with other options of PyTorch's where they are asked for."""
    known = ("shape", "transform", "dtype", "batch_size", "workers")
    own = {name: options.pop(name) for name in known if name in options}
    made = [module.loader(**own) for module in (BEFORE, AFTER)]
    if not (options or sampler or batch_sampler):
        return made
    more: dict[str, Any] = {"num_workers": own.get("workers", 1), **options}
    more |= {"batch_sampler": batch_sampler} if batch_sampler else {"batch_size": own.get("batch_size", 3)}
    return [type(one)(one.dataset, sampler=sampler, **more) for one in made]


def bits(value: Any) -> Any:
    """All that there is to a batch, to be compared."""
    if isinstance(value, torch.Tensor):
        data = value.flatten().view(torch.uint8).tolist()
        return (
            value.dtype,
            value.shape,
            value.stride(),
            value.is_contiguous(),
            value.is_inference(),
            value.is_pinned(),
            data,
        )
    if isinstance(value, (list, tuple)):
        return type(value), [bits(item) for item in value]
    return type(value), value


def epochs(loader: Any, count: int = 2) -> Any:
    """The batches of some epochs, and the generators' states afterwards."""
    torch.manual_seed(5)
    numpy.random.seed(5)
    found = [[bits(batch) for batch in loader] for _ in range(count)]
    return found, torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()


def test_it_lands() -> None:
    assert PLANNED_TEXT.kind == PLANNED, PLANNED_TEXT.message


SHAPES = [(2, 5, 6, 3), (1, 5, 6, 3), (1, 1, 1, 3), (2, 1, 6, 1), (3, 16, 16, 4), (1, 64, 48, 3)]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_batches(shape: tuple[int, ...], workers: int) -> None:
    for size in (1, 3):
        before, after = (epochs(one) for one in loaders(shape=shape, workers=workers, batch_size=size))
        assert before == after
        assert any(batch for batch in before[0])


OPTIONS: dict[str, dict[str, Any]] = {
    "shuffled": {"shuffle": True, "drop_last": True},
    "persistent": {"persistent_workers": True},
    "endless": {"batch_sampler": [[0, 1], [3], [5, 5, 6]]},
    "sampler": {"sampler": [6, 0, 0, 1]},
    "prefetch": {"prefetch_factor": 1, "pin_memory": False},
    "spawn": {"multiprocessing_context": "fork", "timeout": 60},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_loaders(name: str) -> None:
    before, after = loaders(**OPTIONS[name])
    assert epochs(before, 3) == epochs(after, 3)
    assert len(before) == len(after) and len(iter(before)) == len(iter(after))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", FLIPPED)
def test_images_that_are_changed_before(kind: str, workers: int) -> None:
    before, after = loaders(transform=FLIPPED[kind], workers=workers)
    assert epochs(before) == epochs(after)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "bool"])
def test_other_types(dtype: str) -> None:
    for workers in (0, 1):
        before, after = loaders(dtype=dtype, workers=workers)
        assert epochs(before) == epochs(after)


def test_every_value() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1)
    for in_worker in (False, True):
        made = AFTER._scaled_images(images, in_worker)
        assert bits(made.flatten()) == bits(torch.arange(256, dtype=torch.uint8) / 255.0)


def test_in_inference_mode() -> None:
    with torch.inference_mode():
        before, after = (epochs(one) for one in loaders())
    assert before == after
    images = torch.zeros(1, 1, 2, 2, 3, dtype=torch.uint8)
    with torch.inference_mode():
        assert not AFTER._scaled_images(images, True).is_inference()  # as what a thread that pins memory makes


@pytest.mark.parametrize("workers", [0, 1])
def test_errors(workers: int) -> None:
    found = []
    for one in loaders(sampler=[1, 2, 99], batch_size=2, workers=workers):
        with pytest.raises(ValueError, match="no item 99") as caught:
            list(one)
        found.append(str(caught.value).partition("Original")[0])
    assert found[0] == found[1]


def test_what_items_are() -> None:
    _, images, _ = AFTER.Episodes((2, 5, 6, 3))[0]
    assert images.dtype == torch.uint8 and images.shape == (2, 5, 6, 3)
    assert images.is_contiguous()


def test_batches_as_they_are_stored() -> None:
    before, after = loaders()
    after.images_as_uint8 = True
    torch.manual_seed(5)
    floats = [batch[1] for batch in before]
    torch.manual_seed(5)
    stored = [batch[1] for batch in after]
    assert all(images.dtype == torch.uint8 for images in stored)
    assert all(torch.equal(a, b.movedim(-1, -3) / 255.0) for a, b in zip(floats, stored))
    assert type(after).images_as_uint8 is False


def test_without_workers_there_is_nothing_to_hand_over() -> None:
    before, after = loaders(workers=0)
    after.images_as_uint8 = True
    assert epochs(before) == epochs(after)


def test_batches_are_lists_that_may_be_written_to() -> None:
    _, after = loaders()
    batch = next(iter(after))
    batch[1] += 1
    assert type(batch) is list and float(batch[1].min()) >= 1


def test_workers_end_with_their_iterator() -> None:
    _, after = loaders(workers=2)
    iterator = iter(after)
    next(iterator)
    workers = iterator.batches._workers
    del iterator
    for worker in workers:
        worker.join(20)
    assert not any(worker.is_alive() for worker in workers)


def test_a_data_set_for_workers_that_are_spawned() -> None:
    dataset = loaders()[1].dataset
    assert type(pickle.loads(pickle.dumps(dataset))) is type(dataset)
