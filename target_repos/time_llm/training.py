"""What makes batches of Time-LLM, and what trains it: the checkout's data loader and training script, on a series of a few hours."""

import builtins
import contextlib
import csv
import io
import itertools
import os
import re
import sys
import tempfile
import types

from . import stand_ins

LOADER, EPOCH = "loader", "epoch"
BATCHES, EPOCHS, AHEAD = {LOADER: 16, EPOCH: 6}, 2, {LOADER: 24, EPOCH: 4}
"""How many batches are taken, how often the script goes through its data, and how many steps are predicted."""
FIGURE = re.compile(r"-?\d+\.(\d+)(?:e[-+]?\d+)?")
OF_SCRIPT = {
    **{
        "task_name": "long_term_forecast",
        "is_training": 1,
        "model_id": "waves",
        "model_comment": "none",
        "model": "TimeLLM",
    },
    **{"data": "Weather", "root_path": "dataset", "data_path": "series.csv", "features": "M", "num_workers": 0},
    **{"pred_len": AHEAD[EPOCH], "d_model": 16, "n_heads": 2, "patch_len": 16, "stride": 8, "llm_model": "GPT2"},
    **{"train_epochs": EPOCHS, "learning_rate": 0.01},
}


def workplace(folder, models):
    """A temporary folder to run in, that has the ``models`` of ``folder``, what the script looks for, and in which it may write."""
    place = tempfile.mkdtemp()
    if os.path.isdir(os.path.join(folder, models)):
        os.symlink(os.path.join(folder, models), os.path.join(place, models), target_is_directory=True)
    texts = os.path.join(place, "dataset", "prompt_bank")
    os.makedirs(texts)
    with open(os.path.join(texts, "Weather.txt"), "w", encoding="utf-8") as file:
        file.write("The height of some waves, each hour.")
    return place


def write(series, place):
    """``series`` (T, N) as the file of a data set, a row for each hour."""
    import numpy

    hours = numpy.datetime_as_string(numpy.datetime64("2020-01-01T00") + numpy.arange(len(series)), unit="s")
    names = [*(f"wave {i}" for i in range(series.shape[1] - 1)), "OT"]
    with open(place, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["date", *names], *([hour.replace("T", " "), *row] for hour, row in zip(hours, series.tolist()))]
        )


class Loaders:
    """The checkout's loaders, each made once for a shape. A run gives them another series, and goes through their batches."""

    def __init__(self, provide):
        self.provide, self.made = provide, {}

    def batches(self, inputs):
        """The first batches of the loader, which shuffles in training."""
        key, series = (inputs["shape"], inputs["mode"]), inputs["series"].double().numpy()
        if key not in self.made:
            write(series, os.path.join("dataset", "series.csv"))
            self.made[key] = self.provide(_Data(*inputs["shape"]), "train" if inputs["mode"] == "training" else "test")
        data, loader = self.made[key]
        data.data_x = data.data_y = series[: len(data.data_x)]
        return list(itertools.islice(loader, BATCHES[LOADER]))


class _Data(types.SimpleNamespace):
    """What is read of the command line where data sets are made."""

    def __init__(self, batch, variables, steps):
        super().__init__(
            **{"data": "Weather", "root_path": "dataset", "data_path": "series.csv", "features": "M", "target": "OT"},
            **{"embed": "timeF", "freq": "h", "percent": 100, "seasonal_patterns": "Monthly", "num_workers": 0},
            **{"batch_size": batch, "seq_len": steps, "label_len": steps // 2, "pred_len": AHEAD[LOADER]},
        )


class Script:
    """The checkout's training script, run anew each time as if it was called on the command line."""

    def __init__(self, file, options, prepared, has_wavelets, may_round):
        """``options`` are of the model, as the script calls them; ``prepared`` is what Accelerate is to make of it.

        Where the model is changed, too, it ``may_round`` otherwise: then figures are given as what a float32 can hold of them.
        """
        import numpy

        self.numpy, self.figures, self.may_round = numpy, lambda values: values, may_round
        if not hasattr(numpy, "Inf"):  # which scripts from before numpy 2 ask for
            numpy.Inf = numpy.inf
        place = os.path.join(sys.path[0], file)
        with open(place, encoding="utf-8") as script:
            text = script.read()
        self.code = compile(text, place, "exec")
        self.module = types.ModuleType("__main__")
        self.module.__file__ = place
        sys.modules["the training script"] = self.module
        self.options = {**OF_SCRIPT, **options}
        self.switches = ["--use_dwt_prompt"] if has_wavelets and "--use_dwt_prompt" in text else []
        self.accelerate = stand_ins.accelerate(prepared)
        with stand_ins.installed(), contextlib.suppress(SystemExit):  # the modules that the script imports need them
            self._do(["--help"])

    def run(self, inputs):
        """What is printed, but for times, the means in its variables, and its model's parameters; and apart the figures of all that."""
        import torch

        batch, variables, steps = inputs["shape"]
        write(inputs["series"], os.path.join("dataset", "series.csv"))
        shape = {"batch_size": batch, "enc_in": variables, "seq_len": steps, "label_len": steps // 2}
        given = [f"--{name}={value}" for name, value in {**self.options, **shape}.items()]
        printed, found = self._do([*given, *self.switches])
        lines = [line for line in printed.splitlines() if not re.search("time|speed", line)]
        means = {name: float(value) for name, value in found.items() if isinstance(value, self.numpy.floating)}
        models = {name: value for name, value in found.items() if isinstance(value, torch.nn.Module)}
        trained = {n: p.detach().clone() for m in models.values() for n, p in m.named_parameters() if p.requires_grad}
        if not self.may_round:
            return {"printed": lines, "means": means, "trained": trained}
        figures = [float(figure[0]) for line in lines for figure in FIGURE.finditer(line)]
        texts = [FIGURE.sub(lambda figure: "#." + "#" * len(figure[1]), line) for line in lines]
        return {"printed": texts, "figures": torch.tensor([*figures, *means.values()]), "trained": trained}

    def _do(self, arguments):
        """What the script prints with ``arguments``, and its variables."""
        printed, before = io.StringIO(), sys.argv
        found = vars(self.module)
        for name in [name for name in found if name not in ("__name__", "__file__", "__doc__")]:
            del found[name]
        found["__builtins__"] = {**vars(builtins), "__import__": self._import}
        sys.argv = [self.module.__file__, *arguments]
        average = self.numpy.average
        self.numpy.average = lambda values, *more, **others: average(self.figures(values), *more, **others)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                exec(self.code, found)
        finally:
            sys.argv, self.numpy.average = before, average
        return printed.getvalue(), dict(found)

    def _import(self, name, *others):
        return self.accelerate if name == "accelerate" else builtins.__import__(name, *others)
