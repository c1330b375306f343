"""``act_h5_handle_cache``: what the written code does with real files, in threads and other processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from act import REFERENCE, make_episodes, module_of, text_with

h5py, numpy, torch = (pytest.importorskip(name) for name in ("h5py", "numpy", "torch"))
NAME, MODULE = "act_h5_handle_cache", "act_utils_that_keeps_files"
CAMERAS = ["top", "left"]


@pytest.fixture
def plain(tmp_path: Path) -> Any:
    """The reference tree's file as it is."""
    return module_of(REFERENCE, tmp_path, "act_utils_plain")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file with the optimization, in a time in which the episodes are old."""
    monkeypatch.syspath_prepend(str(tmp_path))
    module = module_of(text_with(NAME, files=3), tmp_path, MODULE)
    module._clock_time = lambda: time.time() + 60
    yield module
    module._close_kept_files()
    del sys.modules[MODULE]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_episodes(tmp_path / "episodes", count=5, steps=7, height=8, width=9, cameras=CAMERAS)


def episode(folder: Path, number: int = 0) -> str:
    return str(folder / f"episode_{number}.hdf5")


def dataset(module: Any, folder: Path, cameras: list[str] = CAMERAS) -> Any:
    return module.EpisodicDataset(range(5), str(folder), cameras, module.get_norm_stats(str(folder), 5))


def items(module: Any, data: Any, count: int) -> list[Any]:
    """Items of moments that are drawn with one seed."""
    module.set_seed(3)
    return [data[int(number)] for number in numpy.random.default_rng(1).integers(0, 5, count)]


def same(left: Any, right: Any) -> bool:
    return all(torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other))


def paths(module: Any) -> list[str]:
    return [os.path.basename(file.filename) for file, _ in module._KEPT_FILES.values()]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_same_items(plain: Any, kept: Any, folder: Path) -> None:
    expected = items(plain, dataset(plain, folder), 60)
    state = numpy.random.get_state()[1].tolist()
    assert same(items(kept, dataset(kept, folder), 60), expected)
    assert numpy.random.get_state()[1].tolist() == state
    assert len(kept._KEPT_FILES) == 3


def test_a_file_is_opened_once(kept: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = kept._KeptFile
    monkeypatch.setattr(kept, "_KeptFile", lambda *a, **k: opened.append(a[0]) or real(*a, **k))
    data = dataset(kept, folder)
    opened.clear()
    for _ in range(4):
        data[0], data[1]
    assert len(opened) == 1  # the first item was made by the data set itself
    data[2], data[3], data[0]
    assert len(opened) == 4
    assert paths(kept) == ["episode_2.hdf5", "episode_3.hdf5", "episode_0.hdf5"]


def test_the_least_recently_used_goes(kept: Any, folder: Path) -> None:
    data = dataset(kept, folder)
    for number in (0, 1, 2, 0, 3):
        data[number]
    assert paths(kept) == ["episode_2.hdf5", "episode_0.hdf5", "episode_3.hdf5"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors cannot be counted")
def test_descriptors_do_not_grow(kept: Any, folder: Path) -> None:
    data = dataset(kept, folder)
    items(kept, data, 30)
    before = descriptors()
    items(kept, data, 200)
    assert descriptors() <= before
    kept._close_kept_files()
    assert descriptors() == before - 3


def test_the_limit_of_open_files(kept: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    items(kept, dataset(kept, folder), 30)
    assert len(kept._KEPT_FILES) == 2


def test_a_file_that_was_changed_just_now_is_not_kept(kept: Any, folder: Path) -> None:
    kept._clock_time = time.time
    os.utime(episode(folder))
    dataset(kept, folder)[0]
    assert not kept._KEPT_FILES


def replaced(folder: Path) -> None:
    shutil.copy(episode(folder, 1), folder / "new")
    os.replace(folder / "new", episode(folder))


def rewritten(folder: Path) -> None:
    with h5py.File(episode(folder, 1)) as other:
        action = other["/action"][()]
    kept = sys.modules[MODULE]
    kept._close_kept_files()  # HDF5 itself: a file that is open for reading here cannot be written to
    with h5py.File(episode(folder), "r+") as root:
        root["/action"][...] = action


@pytest.mark.parametrize("change", [replaced, rewritten])
def test_another_file_under_the_name(plain: Any, kept: Any, folder: Path, change: Callable[[Path], None]) -> None:
    data = dataset(kept, folder)
    data[0]
    change(folder)
    fresh = dataset(plain, folder)
    data.norm_stats = fresh.norm_stats
    made = []
    for each in (data, fresh):
        numpy.random.seed(0)
        made.append(each[0])
    assert same(made[:1], made[1:])


def gone(folder: Path) -> None:
    os.remove(episode(folder))


def truncated(folder: Path) -> None:
    os.truncate(episode(folder), 900)


def emptied(folder: Path) -> None:
    os.truncate(episode(folder), 0)


def another_kind(folder: Path) -> None:
    Path(episode(folder)).write_text("no episode")


def a_folder(folder: Path) -> None:
    os.remove(episode(folder))
    os.mkdir(episode(folder))


def without_camera(folder: Path) -> None:
    replaced(folder)
    with h5py.File(episode(folder), "r+") as root:
        del root["/observations/images/left"]


def raised(make: Callable[[], Any]) -> tuple[type[BaseException], str]:
    with pytest.raises(Exception) as caught:
        make()
    return caught.type, re.sub(r"0x\w+|\d+", "N", str(caught.value))  # some say where in memory


@pytest.mark.parametrize("change", [gone, truncated, emptied, another_kind, a_folder, without_camera])
def test_what_is_raised(plain: Any, kept: Any, folder: Path, change: Callable[[Path], None]) -> None:
    one, other = dataset(plain, folder), dataset(kept, folder)
    change(folder)
    for _ in range(2):
        assert raised(lambda: other[0]) == raised(lambda: one[0])
    assert "episode_0.hdf5" not in paths(kept)
    assert same([other.norm_stats.values()], [one.norm_stats.values()])


def test_a_camera_that_is_not_there(plain: Any, kept: Any, folder: Path) -> None:
    one, other = (dataset(module, folder) for module in (plain, kept))
    one.camera_names = other.camera_names = ["top", "right"]
    assert raised(lambda: other[0]) == raised(lambda: one[0])
    assert paths(kept) == []
    other.camera_names = CAMERAS
    assert len(other[0]) == 4


def test_what_is_raised_in_the_with(kept: Any, folder: Path) -> None:
    for error in (StopIteration("end"), KeyboardInterrupt(), GeneratorExit(), ValueError("x")):
        with pytest.raises(type(error)) as caught, kept._kept_open(episode(folder)) as root:
            raise error
        assert caught.value is error
        assert not root
        assert not kept._KEPT_FILES


def test_a_file_that_is_closed_in_the_with(kept: Any, folder: Path) -> None:
    for _ in range(2):
        with kept._kept_open(episode(folder)) as root:
            assert root["/action"].shape == (7, 4)
            root.close()
    assert not kept._KEPT_FILES


def test_a_data_set_is_looked_up_once(kept: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is each time; and each name that is not there."""
    with kept._kept_open(episode(folder)) as root:
        images = root["/observations/images/top"]
        assert root["observations"] is not root["observations"]
        assert isinstance(root, h5py.File) and root.filename == episode(folder)
    with kept._kept_open(episode(folder)) as root:
        assert root["/observations/images/top"] is images and images[0].shape == (8, 9, 3)
        for name in ("nothing", b"nothing"):
            with pytest.raises(KeyError):
                root[name]
        assert root[images.ref] == images and root[b"action"] == root["action"]


def test_as_many_data_sets_as_an_episode_has(kept: Any, folder: Path) -> None:
    """And no more: of a file with one for each moment, the first."""
    with h5py.File(folder / "many", "w") as root:
        for number in range(99):
            root[f"{number}"] = numpy.full(3, number)
    for _ in range(2):
        with kept._kept_open(str(folder / "many")) as root:
            assert [root[f"{number}"][0] for number in range(99)] == list(range(99))
            assert len(vars(root)["known"]) == 64


def test_an_attribute_is_read_once(kept: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number or a text, which nobody can change; an array, a record or what is not there is each time."""
    read, real = [], h5py.AttributeManager.__getitem__
    monkeypatch.setattr(h5py.AttributeManager, "__getitem__", lambda self, name: read.append(name) or real(self, name))
    record = numpy.array((1, 2.5), dtype=[("a", "i4"), ("b", "f8")])
    given = {"truth": True, "whole": 3, "real": 2.5, "text": "fold", "array": numpy.arange(3), "record": record}
    with h5py.File(folder / "many", "w") as root:
        root.attrs.update(given)
        root.attrs["nothing"] = h5py.Empty("f4")
        root["x"] = numpy.arange(3)
        root["x"].attrs["other"] = "cotton"
    os.utime(folder / "many", (0, 0))
    for number in range(2):
        with kept._kept_open(str(folder / "many")) as root:
            assert isinstance(root.attrs, h5py.AttributeManager)
            assert root.attrs["truth"] and root.attrs["truth"].dtype == bool
            assert (root.attrs["whole"], root.attrs["real"], root.attrs.get("text")) == (3, 2.5, "fold")
            assert root.attrs["array"].tolist() == [0, 1, 2]
            root.attrs["array"][0] = 7
            assert root.attrs["record"]["b"] == 2.5
            root.attrs["record"]["b"] = 7
            assert isinstance(root.attrs["nothing"], h5py.Empty)
            assert "truth" in root.attrs and root.attrs.get("missing", 5) == 5 and len(root.attrs) == 7
            assert root["x"].attrs["other"] == "cotton"
            with pytest.raises(KeyError):
                root.attrs["missing"]
        assert [name in read for name in given] == [number == 0] * 4 + [True] * 2
        read.clear()


def test_as_many_attributes_as_an_episode_has(kept: Any, folder: Path) -> None:
    with h5py.File(folder / "many", "w") as root:
        root.attrs.update({f"{number}": number for number in range(99)})
    for _ in range(2):
        with kept._kept_open(str(folder / "many")) as root:
            assert [root.attrs[f"{number}"] for number in range(99)] == list(range(99))
            assert len(vars(root.attrs)["known"]) == 64


def test_one_file_under_two_names(kept: Any, folder: Path) -> None:
    """It is open once: HDF5 would show under one name what the other one knew."""
    os.symlink(episode(folder), folder / "other")
    for path in (episode(folder), str(folder / "other"), episode(folder)):
        with kept._kept_open(path) as root:
            assert root["/action"].shape == (7, 4)
    assert len(kept._KEPT_FILES) == 1
    again = folder / "again"
    with h5py.File(again, "w") as root:
        root["/action"] = numpy.zeros((9, 4))
    os.replace(again, episode(folder))
    for path in (str(folder / "other"), episode(folder)):
        with kept._kept_open(path) as root:
            assert root["/action"].shape == (9, 4)


def test_a_file_that_is_changed_again_and_again(kept: Any, folder: Path) -> None:
    """What is young is not kept, and what was kept of it before is closed: HDF5 would go on showing that."""
    with kept._kept_open(episode(folder)):
        pass
    kept._clock_time = time.time
    os.utime(episode(folder))
    with kept._kept_open(episode(folder)) as root:
        assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 1 and root
    assert not kept._KEPT_FILES and not root


def test_data_sets_of_other_files(kept: Any, folder: Path) -> None:
    """By an external link, virtual, with raw data elsewhere: what is there now is read, each time."""
    numpy.full(3, 5, "<i4").tofile(folder / "raw")
    with h5py.File(folder / "other", "w") as other:
        other["x"] = numpy.arange(3)
    with h5py.File(folder / "links", "w") as root:
        root["linked"] = h5py.ExternalLink("other", "/x")
        layout = h5py.VirtualLayout(3, dtype=int)
        layout[:] = h5py.VirtualSource(str(folder / "other"), "x", 3)
        root.create_virtual_dataset("virtual", layout)
        root.create_dataset("raw", 3, "<i4", external=[(str(folder / "raw"), 0, h5py.h5f.UNLIMITED)])
        root["soft"] = h5py.SoftLink("/raw")
    for value in (0, 1):
        with kept._kept_open(str(folder / "links")) as root:
            assert [root[name][0] for name in ("linked", "virtual")] == [value, value]
            assert [root[name][0] for name in ("raw", "soft")] == [5 + value] * 2
            assert not vars(root)["known"]
        os.remove(folder / "other")
        with h5py.File(folder / "other", "w") as other:
            other["x"] = numpy.arange(3) + 1
        numpy.full(3, 6, "<i4").tofile(folder / "raw")


@pytest.mark.parametrize("path", [3.5, None, "a\0b"])
def test_paths_that_are_none(kept: Any, path: Any) -> None:
    def opened() -> None:
        with kept._kept_open(path):
            raise AssertionError

    assert raised(opened) == raised(lambda: h5py.File(path, "r"))


def test_twice_at_the_same_time(kept: Any, folder: Path) -> None:
    with kept._kept_open(episode(folder)) as one, kept._kept_open(episode(folder)) as other:
        assert one is not other
    assert bool(one) != bool(other)  # one of them is kept
    assert len(kept._KEPT_FILES) == 1


def test_threads(plain: Any, kept: Any, folder: Path) -> None:
    data, wrong = dataset(kept, folder), []
    actions = {number: h5py.File(episode(folder, number))["/action"][()] for number in range(5)}

    def read(seed: int) -> None:
        for number in numpy.random.default_rng(seed).integers(0, 5, 60).tolist():
            try:
                with kept._kept_open(episode(folder, number)) as root:
                    if not numpy.array_equal(root["/action"][()], actions[number]):
                        wrong.append(number)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(data[0]) == 4
    assert all(file for file, _ in kept._KEPT_FILES.values())


def test_pickled(kept: Any, folder: Path) -> None:
    data = dataset(kept, folder)
    data[0]
    assert kept._KEPT_FILES
    again = pickle.loads(pickle.dumps(data))
    assert vars(again).keys() == vars(data).keys()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_nothing_is_open_in_a_forked_process(kept: Any, folder: Path) -> None:
    data = dataset(kept, folder)
    data[1]
    files = [file for file, _ in kept._KEPT_FILES.values()]
    assert len(files) == 2
    child = os.fork()
    if child == 0:
        is_open = any(files) or h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
        os._exit(1 if is_open or len(data[1]) != 4 else 0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(data[1]) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_another_thread_has_open_is_left_to_the_parent(kept: Any, folder: Path) -> None:
    dataset(kept, folder)
    ((file, _),) = kept._KEPT_FILES.values()
    path = file.filename
    kept._leave_to_parent()
    assert file and not kept._KEPT_FILES
    with kept._kept_open(path) as other:
        assert other is not file
    assert file
    file.close()


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loaders(plain: Any, kept: Any, folder: Path, start: str, workers: int) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip("not here")
    made = []
    for module in (plain, kept):
        module.set_seed(0)
        options: dict[str, Any] = {"num_workers": workers, "shuffle": True, "batch_size": 2}
        if workers:
            options |= {"multiprocessing_context": start, "persistent_workers": True}
        loader = torch.utils.data.DataLoader(dataset(module, folder), **options)
        made.append([batch for _ in range(3) for batch in loader])
    assert same(*made)


def test_memory(kept: Any, folder: Path) -> None:
    """Of a file that is kept: far less than what is read of it."""
    psutil = pytest.importorskip("psutil")
    large = make_episodes(folder / "large", count=24, steps=4, height=240, width=320, cameras=CAMERAS)
    read = [episode(large, number) for number in range(24)]

    def resident() -> int:
        for path in read:
            with kept._kept_open(path, most=24) as root:
                assert root["/observations/images/top"][1].shape == (240, 320, 3)
        return int(psutil.Process().memory_info().rss)

    kept._kept_open.__wrapped__.__defaults__ = (24,)
    resident()
    kept._close_kept_files()
    with_none = int(psutil.Process().memory_info().rss)
    assert (resident() - with_none) / 24 < 2e6
    assert len(kept._KEPT_FILES) == 24
