"""What takes the place of Accelerate, pandas and scikit-learn: as much of them as a data loader and a training script ask for."""

import contextlib
import csv
import sys
import types


def accelerate(prepared):
    """Accelerate's names, for one process on a CPU; ``prepared`` is what becomes of a model."""
    import torch

    def nothing(*values, **others):
        return None

    class Accelerator:
        device = torch.device("cpu")
        is_local_main_process = is_main_process = True
        print = staticmethod(print)
        wait_for_everyone = staticmethod(nothing)

        def __init__(self, *values, **others):
            pass

        def prepare(self, *values):
            return tuple(prepared(value) if isinstance(value, torch.nn.Module) else value for value in values)

        def backward(self, loss):
            loss.backward()

        def gather_for_metrics(self, values):
            return values

        def unwrap_model(self, model):
            return model

    found = {"Accelerator": Accelerator, "DeepSpeedPlugin": nothing, "DistributedDataParallelKwargs": nothing}
    return types.SimpleNamespace(**found)


class _StandIn(types.ModuleType):
    """A module that has everything: classes without contents."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {"__init__": lambda self, *values, **others: None})
        setattr(self, name, found)
        return found


class _Frame:
    """A table, as far as data sets ask for one."""

    def __init__(self, columns):
        vars(self)["of"] = columns

    columns = property(lambda self: list(self.of))

    @property
    def values(self):
        import numpy

        return numpy.stack(list(self.of.values()), axis=1)

    def __getitem__(self, key):
        if isinstance(key, slice):
            return _Frame({name: values[key] for name, values in self.of.items()})
        return _Frame({name: self.of[name] for name in key}) if isinstance(key, list) else _Column(self.of[key])

    def __setitem__(self, name, values):
        self.of[name] = getattr(values, "values", values)

    def __getattr__(self, name):
        return self[name]

    def __len__(self):
        return len(next(iter(self.of.values())))


class _Column:
    """A column, and what may be asked of points in time."""

    def __init__(self, values):
        self.values = values

    def _since(self, larger, smaller):
        return (self.values.astype(f"M8[{smaller}]") - self.values.astype(f"M8[{larger}]")).astype("int64")

    second = property(lambda self: self._since("m", "s"))
    minute = property(lambda self: self._since("h", "m"))
    hour = property(lambda self: self._since("D", "h"))
    day = property(lambda self: self._since("M", "D") + 1)
    dayofyear = property(lambda self: self._since("Y", "D") + 1)
    month = property(lambda self: self._since("Y", "M") + 1)
    dayofweek = property(lambda self: (self.values.astype("M8[D]").astype("int64") + 3) % 7)


def _read_csv(place):
    import numpy

    with open(place, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    kinds = ["str" if name == "date" else "float64" for name in names]
    return _Frame({name: numpy.array(values, kind) for name, values, kind in zip(names, zip(*rows), kinds)})


class _Scaler:
    """Numbers as multiples of their deviation from their mean."""

    def fit(self, values):
        self.mean, self.deviation = values.mean(axis=0), values.std(axis=0)

    def transform(self, values):
        return (values - self.mean) / self.deviation


@contextlib.contextmanager
def installed():
    """While modules are imported: what they need of pandas and scikit-learn, and a name for what else they ask for."""
    names = ("pandas", "pandas.tseries", "pandas.tseries.offsets", "pandas.tseries.frequencies", "matplotlib")
    more = ("matplotlib.pyplot", "sklearn", "sklearn.preprocessing", "reformer_pytorch", "accelerate", "deepspeed")
    made = {name: _StandIn(name) for name in (*names, *more)}
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    made["pandas"].read_csv, made["pandas"].DataFrame = _read_csv, _Frame
    made["pandas"].to_datetime = lambda values: _Column(getattr(values, "values", values).astype("M8[s]"))
    made["pandas.tseries.frequencies"].to_offset = lambda text: made["pandas.tseries.offsets"].Hour()
    made["sklearn.preprocessing"].StandardScaler = _Scaler
    made["matplotlib.pyplot"].switch_backend = lambda name: None
    kept = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
