"""What a training does between epochs."""

import os
import shutil

import numpy as np
import torch


class EarlyStopping:
    """Keeps the best model in a file, and says when there has been no better one for ``patience`` epochs."""

    def __init__(self, accelerator=None, patience=7):
        self.accelerator, self.patience = accelerator, patience
        self.counter, self.best, self.early_stop = 0, np.inf, False

    def __call__(self, val_loss, model, path):
        if val_loss < self.best:
            self.counter, self.best = 0, val_loss
            torch.save(self.accelerator.unwrap_model(model).state_dict(), os.path.join(path, "checkpoint"))
        else:
            self.counter += 1
            self.accelerator.print(f"no better for {self.counter} of {self.patience} epochs")
        self.early_stop = self.counter >= self.patience


def adjust_learning_rate(accelerator, optimizer, scheduler, epoch, args, printout=True):
    """Half of it after each epoch."""
    rate = args.learning_rate * 0.5 ** (epoch - 1)
    for group in optimizer.param_groups:
        group["lr"] = rate
    if printout:
        accelerator.print(f"learning rate: {rate}")


def vali(args, accelerator, model, vali_data, vali_loader, criterion, mae_metric):
    """The mean losses over a loader's batches."""
    losses, absolute = [], []
    model.eval()
    with torch.no_grad():
        for batch_x, batch_y, batch_x_mark, batch_y_mark in vali_loader:
            batch_x, batch_y = batch_x.float().to(accelerator.device), batch_y.float().to(accelerator.device)
            outputs = model(batch_x, batch_x_mark.float(), None, batch_y_mark.float())
            outputs, batch_y = accelerator.gather_for_metrics((outputs, batch_y[:, -args.pred_len :]))
            losses.append(criterion(outputs, batch_y).item())
            absolute.append(mae_metric(outputs, batch_y).item())
    model.train()
    return np.average(losses), np.average(absolute)


def load_content(args):
    """What is told of the data in each prompt."""
    with open(f"./dataset/prompt_bank/{args.data}.txt", encoding="utf-8") as file:
        return file.read()


def del_files(dir_path):
    """A folder with all that is in it."""
    shutil.rmtree(dir_path)
