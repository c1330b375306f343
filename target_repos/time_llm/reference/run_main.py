"""Trains a model that forecasts series, and prints how far it is off.

The options have the names that they have in Time-LLM. Accelerate (https://github.com/huggingface/accelerate) says where it runs.
"""

import argparse
import os
import random
import time

import numpy as np
import torch
from accelerate import Accelerator
from data_provider.data_factory import data_provider
from models import TimeLLM
from torch import nn, optim
from utils.tools import EarlyStopping, adjust_learning_rate, del_files, load_content, vali

random.seed(2021)
torch.manual_seed(2021)
np.random.seed(2021)

parser = argparse.ArgumentParser(description="Time-LLM")
for name in ("task_name", "model_id", "model_comment", "model", "data"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--is_training", type=int, required=True)
TEXTS = {
    "root_path": "./dataset",
    "data_path": "ETTh1.csv",
    "features": "M",
    "target": "OT",
    "freq": "h",
    "embed": "timeF",
}
TEXTS |= {"checkpoints": "./checkpoints/", "llm_model": "GPT2", "lradj": "type1"}
NUMBERS = {"seq_len": 96, "label_len": 48, "pred_len": 96, "enc_in": 7, "d_model": 16, "n_heads": 8, "d_ff": 32}
NUMBERS |= {"patch_len": 16, "stride": 8, "prompt_domain": 0, "llm_dim": 768, "llm_layers": 6, "num_workers": 10}
NUMBERS |= {"train_epochs": 10, "batch_size": 32, "patience": 10, "percent": 100}
for name, usual in {**TEXTS, **NUMBERS, "dropout": 0.1, "learning_rate": 1e-4}.items():
    parser.add_argument(f"--{name}", type=type(usual), default=usual)
parser.add_argument("--use_amp", action="store_true")
args = parser.parse_args()

accelerator = Accelerator()
train_data, train_loader = data_provider(args, "train")
vali_data, vali_loader = data_provider(args, "val")
test_data, test_loader = data_provider(args, "test")
args.content = load_content(args)
model = TimeLLM.Model(args).float()
path = os.path.join(args.checkpoints, f"{args.task_name}_{args.model_id}-{args.model_comment}")
os.makedirs(path, exist_ok=True)

model_optim = optim.Adam([p for p in model.parameters() if p.requires_grad], lr=args.learning_rate)
criterion, mae_metric = nn.MSELoss(), nn.L1Loss()
early_stopping = EarlyStopping(accelerator=accelerator, patience=args.patience)
train_loader, vali_loader, test_loader, model, model_optim = accelerator.prepare(
    train_loader, vali_loader, test_loader, model, model_optim
)
scaler = torch.amp.GradScaler(accelerator.device.type, enabled=args.use_amp)

for epoch in range(args.train_epochs):
    train_loss = []
    model.train()
    epoch_time = time.time()
    for i, (batch_x, batch_y, batch_x_mark, batch_y_mark) in enumerate(train_loader):
        model_optim.zero_grad()
        batch_x, batch_y = batch_x.float().to(accelerator.device), batch_y.float().to(accelerator.device)
        batch_x_mark, batch_y_mark = batch_x_mark.float(), batch_y_mark.float()
        if args.use_amp:
            with torch.autocast(accelerator.device.type):
                outputs = model(batch_x, batch_x_mark, None, batch_y_mark)
                loss = criterion(outputs, batch_y[:, -args.pred_len :])
                train_loss.append(loss.item())
        else:
            outputs = model(batch_x, batch_x_mark, None, batch_y_mark)
            loss = criterion(outputs, batch_y[:, -args.pred_len :])
            train_loss.append(loss.item())

        if (i + 1) % 5 == 0:
            accelerator.print(f"iteration {i + 1} of epoch {epoch + 1}: loss {loss.item():.7f}")
        if args.use_amp:
            scaler.scale(loss).backward()
            scaler.step(model_optim)
            scaler.update()
        else:
            accelerator.backward(loss)
            model_optim.step()

    accelerator.print(f"epoch {epoch + 1}: time {time.time() - epoch_time:.1f} s")
    train_loss = np.average(train_loss)
    vali_loss, _ = vali(args, accelerator, model, vali_data, vali_loader, criterion, mae_metric)
    test_loss, test_mae_loss = vali(args, accelerator, model, test_data, test_loader, criterion, mae_metric)
    accelerator.print(
        f"epoch {epoch + 1}: trained {train_loss:.7f}, chosen by {vali_loss:.7f}, tested {test_loss:.7f} ({test_mae_loss:.7f})"
    )
    early_stopping(vali_loss, model, path)
    if early_stopping.early_stop:
        break
    adjust_learning_rate(accelerator, model_optim, None, epoch + 1, args)

if accelerator.is_local_main_process:
    del_files(args.checkpoints)
