"""Builds the network of few weights that the policy trains, and its optimizer."""

import torch
from torch import nn


def build_ACT_model_and_optimizer(config):
    """On the GPU. The optimizer has all weights."""
    model = Model(config)
    model.cuda()
    return model, torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=1e-4)


class Model(nn.Module):
    """Images (B, K, 3, H, W) and positions (B, Q) to a chunk of actions (B, S, A)."""

    def __init__(self, config):
        super().__init__()
        self.num_queries, hidden = config["num_queries"], config["hidden_dim"]
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=4), nn.ReLU())
        self.joints = nn.Linear(config["state_dim"], hidden)
        self.looks = nn.Linear(8 * len(config["camera_names"]), hidden)
        self.layer = nn.TransformerEncoderLayer(hidden, 2, 2 * hidden, dropout=0.1, batch_first=True)
        self.queries = nn.Parameter(torch.randn(self.num_queries, hidden) * 0.1)
        self.head = nn.Linear(hidden, config["action_dim"])

    def forward(self, qpos, image):
        looks = self.backbone(image.flatten(0, 1)).mean(dim=(2, 3)).unflatten(0, image.shape[:2])
        state = self.joints(qpos) + self.looks(looks.flatten(1))
        return self.head(self.layer(self.queries + state[:, None]))
