"""A policy with the interface of ACT's (https://arxiv.org/abs/2304.13705): a chunk of actions from images and positions."""

import torch
from detr.main import build_ACT_model_and_optimizer
from torch import nn
from torch.nn import functional


class ACTPolicy(nn.Module):
    """Images (B, K, 3, H, W) and positions (B, Q) to ``num_queries`` actions (B, S, A); with actions given, to losses."""

    def __init__(self, config):
        super().__init__()
        self.model, self.optimizer = build_ACT_model_and_optimizer(config)

    def forward(self, qpos, image, actions=None, is_pad=None):
        """Losses ``l1`` and ``loss`` where there are ``actions`` (B, T, A), T >= S, of which some are padding (B, T)."""
        mean = torch.tensor([0.485, 0.456, 0.406], device=image.device)[:, None, None]
        made = self.model(qpos, (image - mean) / 0.225)
        if actions is None:
            return made
        count = self.model.num_queries
        actions, is_pad = actions[:, :count], is_pad[:, :count]
        l1 = (functional.l1_loss(actions, made, reduction="none") * ~is_pad[..., None]).mean()
        return {"l1": l1, "loss": l1}

    def configure_optimizers(self):
        """The optimizer of all weights."""
        return self.optimizer
