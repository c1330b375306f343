"""A policy of few weights with the interface of ACT's (https://arxiv.org/abs/2304.13705): a chunk of actions from images and positions."""

import torch
from torch import nn
from torch.nn import functional


class ACTPolicy(nn.Module):
    """Images (B, K, 3, H, W) and positions (B, Q) to ``num_queries`` actions (B, S, A); with actions given, to losses."""

    def __init__(self, config):
        super().__init__()
        self.num_queries, self.action_dim = config["num_queries"], config["action_dim"]
        hidden = config["hidden_dim"]
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=4), nn.ReLU())
        self.joints = nn.Linear(config["state_dim"], hidden)
        self.looks = nn.Linear(8 * len(config["camera_names"]), hidden)
        self.layer = nn.TransformerEncoderLayer(hidden, 2, 2 * hidden, dropout=0.1, batch_first=True)
        self.queries = nn.Parameter(torch.randn(self.num_queries, hidden) * 0.1)
        self.head = nn.Linear(hidden, self.action_dim)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=config["lr"], weight_decay=1e-4)

    def forward(self, qpos, image, actions=None, is_pad=None):
        """Losses ``l1`` and ``loss`` where there are ``actions`` (B, T, A), T >= S, of which some are padding (B, T)."""
        mean = torch.tensor([0.485, 0.456, 0.406], device=image.device)[:, None, None]
        looks = self.backbone(((image - mean) / 0.225).flatten(0, 1)).mean(dim=(2, 3)).unflatten(0, image.shape[:2])
        state = self.joints(qpos) + self.looks(looks.flatten(1))
        made = self.head(self.layer(self.queries + state[:, None]))
        if actions is None:
            return made
        actions, is_pad = actions[:, : self.num_queries], is_pad[:, : self.num_queries]
        l1 = (functional.l1_loss(actions, made, reduction="none") * ~is_pad[..., None]).mean()
        return {"l1": l1, "loss": l1}

    def configure_optimizers(self):
        """The optimizer of all weights."""
        return self.optimizer
