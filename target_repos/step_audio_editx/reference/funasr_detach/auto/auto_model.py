"""Build a model from its folder, and run it."""

import os
import random
import string

import torch
import yaml

from funasr_detach.frontends.wav_frontend import WavFrontendOnline
from funasr_detach.models.paraformer_streaming.model import ParaformerStreaming
from funasr_detach.models.scama.encoder import SANMEncoderChunkOpt

CLASSES = {c.__name__: c for c in (ParaformerStreaming, SANMEncoderChunkOpt, WavFrontendOnline)}


def prepare_data_iterator(data_in: list | object, key: str | None = None, **kwargs) -> tuple[list[str], list]:
    """A name for each input, a random one unless it is given, and the inputs."""
    inputs = data_in if isinstance(data_in, list) else [data_in]
    names = ("".join(random.choices(string.ascii_letters + string.digits, k=13)) for _ in inputs)
    return [key or f"rand_key_{name}" for name in names], inputs


class AutoModel:
    """The model of a folder that holds config.yaml, model.pt (a state dict) and, optionally, am.mvn.

    model: the folder. repo_path: the folder that the model's companions lie in, kept for the caller.
    Other keyword arguments are defaults for those of `infer_encoder`; `kwargs` holds them, and the frontend.
    """

    def __init__(self, model: str, repo_path: str | None = None, **kwargs):
        self.model_path = model
        self.repo_path = repo_path
        kwargs.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.kwargs = self.build_model(model, **kwargs)

    @staticmethod
    def build_model(folder: str, **kwargs) -> tuple[ParaformerStreaming, dict]:
        with open(os.path.join(folder, "config.yaml"), encoding="utf-8") as file:
            config = yaml.safe_load(file)
        cmvn_file = os.path.join(folder, "am.mvn")
        frontend = CLASSES[config["frontend"]](
            cmvn_file=cmvn_file if os.path.exists(cmvn_file) else None, **config["frontend_conf"]
        )
        encoder = CLASSES[config["encoder"]](input_size=frontend.output_size(), **config["encoder_conf"])
        model = CLASSES[config["model"]](encoder)
        weights = torch.load(os.path.join(folder, "model.pt"), map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
        device = kwargs["device"]
        return model.to(device).eval(), {**kwargs, "frontend": frontend.to(device)}

    def infer_encoder(
        self, input: list, input_len: list[int] | None = None, model=None, kwargs: dict | None = None, key=None, **cfg
    ) -> tuple[list[dict], dict]:
        """Encode utterances, or the next part of one.

        input: a list of mono 16 kHz audio, WAV files or tensors (samples,) in [-1, 1].
        model, kwargs: used in place of this object's own. key: a name.
        cfg: arguments of ParaformerStreaming.infer_encoder; kept as defaults for later calls.
        Returns a list of {"key": name, "enc_out": float32 (1, frames, D)} at 60 ms per frame, and the cache.
        """
        kwargs = self.kwargs if kwargs is None else kwargs
        kwargs.update(cfg)
        model = self.model if model is None else model
        model.eval()
        results, cache = [], {}
        for name, item in zip(*prepare_data_iterator(input, key=key)):
            with torch.no_grad():
                result, _, cache = model.infer_encoder(data_in=[item], key=[name], **kwargs)
            results += result
        torch.cuda.empty_cache()
        return results, cache
