"""Build a model from its folder, and run it."""

import os
from typing import BinaryIO

import torch
import yaml

from funasr_detach.frontends.wav_frontend import WavFrontendOnline
from funasr_detach.models.paraformer_streaming.model import ParaformerStreaming
from funasr_detach.models.scama.encoder import SANMEncoderChunkOpt
from wav_io import read_wav

CLASSES = {c.__name__: c for c in (ParaformerStreaming, SANMEncoderChunkOpt, WavFrontendOnline)}


class AutoModel:
    """The model of a folder that holds config.yaml, model.pt (a state dict) and, optionally, am.mvn.

    model: the folder. model_revision: which version to download; without meaning for a folder.
    repo_path: the folder that the model's companions lie in, kept for the caller.
    kwargs: `device`, and defaults for the keyword arguments of `infer_encoder`.
    """

    def __init__(self, model: str, model_revision: str | None = None, repo_path: str | None = None, **kwargs):
        self.model_path = model
        self.model_revision = model_revision
        self.repo_path = repo_path
        self.device = torch.device(kwargs.pop("device", "cuda" if torch.cuda.is_available() else "cpu"))
        self.kwargs = kwargs
        self.model = self.build_model(model).to(self.device).eval()

    @staticmethod
    def build_model(folder: str) -> ParaformerStreaming:
        with open(os.path.join(folder, "config.yaml"), encoding="utf-8") as file:
            config = yaml.safe_load(file)
        cmvn_file = os.path.join(folder, "am.mvn")
        frontend = CLASSES[config["frontend"]](
            **config["frontend_conf"], cmvn_file=cmvn_file if os.path.exists(cmvn_file) else None
        )
        encoder = CLASSES[config["encoder"]](input_size=frontend.output_size, **config["encoder_conf"])
        model = CLASSES[config["model"]](frontend, encoder)
        weights = torch.load(os.path.join(folder, "model.pt"), map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
        return model

    @torch.inference_mode()
    def infer_encoder(
        self,
        input: BinaryIO | torch.Tensor | list[BinaryIO | torch.Tensor],
        input_len: list[int] | None = None,
        kwargs: dict | None = None,
        key: list[str] | None = None,
        **cfg,
    ) -> tuple[list[dict], dict]:
        """Encode one utterance, a part of one, or several in turn.

        input: mono 16 kHz audio, a WAV file or a tensor (samples,) in [-1, 1], or a list of such.
        input_len: how many samples of each to use; all without it.
        kwargs: used in place of the defaults given to the constructor.
        key: a name for each, "utt_0" and so on without it.
        cfg: arguments of ParaformerStreaming.inference. With is_final=False, `input` is one part of an
            utterance, and the returned cache, given as `cache`, lets the next call go on after it.
        Returns a list of {"key": name, "enc_out": float32 (1, frames, D)} at 60 ms per frame, and the cache.
        """
        options = {**(self.kwargs if kwargs is None else kwargs), **cfg}
        cache = options.pop("cache", None)
        if cache is None:
            cache = {}
        inputs = input if isinstance(input, list) else [input]
        if len(inputs) != 1 and (cache or not options.get("is_final", True)):
            raise ValueError("only one utterance at a time can be streamed")

        results = []
        for i, item in enumerate(inputs):
            samples = self.load_audio(item)[: input_len[i] if input_len else None]
            enc_out = self.model.inference(samples.to(self.device), cache=cache, **options)
            results.append({"key": key[i] if key else f"utt_{i}", "enc_out": enc_out})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return results, cache

    def load_audio(self, item: BinaryIO | torch.Tensor) -> torch.Tensor:
        """Mono audio as float32 (samples,)."""
        if isinstance(item, torch.Tensor):
            return item.float()
        audio, sample_rate = read_wav(item)
        if sample_rate != self.model.frontend.fs:
            raise ValueError(f"audio at {sample_rate} Hz, expected {self.model.frontend.fs} Hz")
        return torch.from_numpy(audio.mean(axis=0))
