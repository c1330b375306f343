"""Series from a file, as windows: of one variable each, the variables one after the other.

The public names are those of Time-LLM.
"""

import csv
import os
from datetime import datetime

import numpy as np
from torch.utils.data import Dataset

KINDS = ("train", "val", "test")


class _Windows(Dataset):
    """``seq_len`` steps of a variable, the ``label_len`` last of them with the ``pred_len`` next, and when these were."""

    def __init__(
        self,
        root_path,
        flag="train",
        size=None,
        features="S",
        data_path="ETTh1.csv",
        target="OT",
        scale=True,
        timeenc=0,
        freq="h",
        percent=100,
        seasonal_patterns=None,
    ):
        self.seq_len, self.label_len, self.pred_len = size or (384, 96, 96)
        self.kind, self.percent = KINDS.index(flag), percent
        self.features, self.target, self.scale = features, target, scale
        with open(os.path.join(root_path, data_path), newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        self._read(names, rows)
        self.enc_in = self.data_x.shape[-1]
        self.tot_len = len(self.data_x) - self.seq_len - self.pred_len + 1

    def _read(self, names, rows):
        first, last = self._borders(len(rows))[self.kind]
        if self.kind == 0:
            last = (last - self.seq_len) * self.percent // 100 + self.seq_len
        columns = [names.index(self.target)] if self.features == "S" else range(1, len(names))
        data = np.array([[float(row[column]) for column in columns] for row in rows])
        if self.scale:
            known = data[slice(*self._borders(len(rows))[0])]
            data = (data - known.mean(axis=0)) / known.std(axis=0)
        self.data_x = self.data_y = data[first:last]
        dates = [datetime.fromisoformat(row[0]) for row in rows[first:last]]
        marks = [
            [d.hour / 23 - 0.5 for d in dates],
            [d.weekday() / 6 - 0.5 for d in dates],
            [d.day / 30 - 0.5 for d in dates],
        ]
        self.data_stamp = np.array(marks).transpose(1, 0)

    def __getitem__(self, index):
        feat_id, s_begin = divmod(index, self.tot_len)
        s_end = s_begin + self.seq_len
        r_begin = s_end - self.label_len
        r_end = s_end + self.pred_len
        seq_x = self.data_x[s_begin:s_end, feat_id : feat_id + 1]
        seq_y = self.data_y[r_begin:r_end, feat_id : feat_id + 1]
        return seq_x, seq_y, self.data_stamp[s_begin:s_end], self.data_stamp[r_begin:r_end]

    def __len__(self):
        return self.tot_len * self.enc_in


class Dataset_ETT_hour(_Windows):
    """A year to train with, four months to choose by, four to test."""

    A_MONTH = 30 * 24

    def _borders(self, rows):
        year, months = 12 * self.A_MONTH, 4 * self.A_MONTH
        second, third = year + months, year + 2 * months
        return (0, year), (year - self.seq_len, second), (second - self.seq_len, third)


class Dataset_ETT_minute(Dataset_ETT_hour):
    """The same, each quarter of an hour."""

    A_MONTH = 30 * 24 * 4


class Dataset_Custom(_Windows):
    """Seven tenths to train with, two to test, the rest to choose by."""

    def _borders(self, rows):
        train, test = int(rows * 0.7), int(rows * 0.2)
        return (0, train), (train - self.seq_len, rows - test), (rows - test - self.seq_len, rows)
