"""What ``tokenizer_vq02_batched`` writes: a model around the FunASR model, which encodes all chunks of an utterance at once.

The encoder is that of SCAMA (https://arxiv.org/abs/2006.01712) with SAN-M attention (https://arxiv.org/abs/2006.01713):
windows that overlap, and in each layer a look-back to the keys and values of the windows before.
"""

HELPER = "_AllChunksAtOnce"
HELPER_TEXT = '''
class _AllChunksAtOnce(torch.nn.Module):
    """A FunASR streaming model that encodes all chunks of a whole utterance at once, layer by layer.

    The model takes one chunk of audio (240 ms) after the other through all its layers. But within a layer, a chunk
    only needs what the same layer made of the chunks before it: the keys and values of its look-back. So here each
    layer takes all chunks of an utterance, or of several, as one batch. The result is the same up to rounding.

    `infer_encoder` does so for a whole utterance where `can_encode` allows it. All else, such as the parts of a
    running session, goes to the model's own `infer_encoder`.
    """

    # Ten seconds of audio at a time go through the filterbank, a minute through the layers: this bounds the memory.
    SAMPLES_AT_ONCE = 160000
    WINDOWS_AT_ONCE = 256
    FRONTEND = {"fs": 16000, "frame_length": 25, "frame_shift": 10, "lfr_m": 7, "lfr_n": 6}
    TORCH_MODULES = "Linear Conv1d ConstantPad1d LayerNorm Dropout ReLU ModuleList".split()
    FUNASR_MODULES = (
        "ParaformerStreaming SANMEncoderChunkOpt StreamSinusoidalPositionEncoder MultiSequential "
        "EncoderLayerSANM MultiHeadedAttentionSANM PositionwiseFeedForward LayerNorm"
    ).split()

    def __init__(self, model):
        super().__init__()
        self.model = model

    @classmethod
    def option(cls, funasr_model):
        """The option that has `funasr_model.infer_encoder` run this class; none, where its model is another one."""
        model = getattr(funasr_model, "model", None)
        is_known = type(funasr_model).__name__ == "AutoModel" and type(model).__name__ == "ParaformerStreaming"
        return {"model": cls(model)} if is_known else {}

    def infer_encoder(self, data_in, **kwargs):
        """As the model's own. `data_in`: a list of one WAV file or tensor (samples,); its "enc_out": (1, frames, D)."""
        is_whole = kwargs.get("is_final") and not kwargs.get("cache") and len(data_in) == 1
        settings = [kwargs.get(name) for name in ("frontend", "chunk_size", "encoder_chunk_look_back")]
        if is_whole and kwargs.get("data_type", "sound") == "sound" and self.can_encode(*settings):
            data_in = self._load(data_in, settings[0].fs)
            samples = data_in[0]
            if torch.is_tensor(samples) and samples.dim() == 1 and self._frame_count(samples, settings[1]) > 0:
                (enc_out,) = self.encode(data_in, *settings)
                return [{"key": kwargs["key"][0], "enc_out": enc_out}], {}, kwargs.get("cache", {})
        return self.model.infer_encoder(data_in=data_in, **kwargs)

    def _load(self, data_in, fs):
        """The samples of a file, read by the function that the model itself reads it with."""
        import sys

        load = getattr(sys.modules[type(self.model).__module__], "load_audio_text_image_video", None)
        return data_in if torch.is_tensor(data_in[0]) or load is None else load(data_in, fs=fs)

    def can_encode(self, frontend, chunk_size, look_back):
        """Whether `encode` does what this model does: the classes and settings it was written for, in float32.

        Not where rounding depends on what is computed together (autocast, quantized layers), nor in training, nor where
        a hook or another `forward` expects the chunks one by one.
        """
        encoder = getattr(self.model, "encoder", None)
        if type(frontend).__name__ != "WavFrontendOnline" or type(encoder).__name__ != "SANMEncoderChunkOpt":
            return False
        if any(getattr(frontend, name, None) != value for name, value in self.FRONTEND.items()):
            return False
        if not chunk_size or chunk_size[0] != 0 or min(chunk_size[1:]) < 1 or not look_back or look_back < 0:
            return False
        if getattr(self.model, "normalize", None) or not self._are_plain([self.model, *encoder.modules()]):
            return False
        layers = [*encoder.encoders0, *encoder.encoders]
        if not all(part.normalize_before for part in [encoder, *layers]):
            return False
        if not all(isinstance(layer.feed_forward.activation, torch.nn.ReLU) for layer in layers):
            return False
        weight = encoder.after_norm.weight[None]
        is_float32 = all(parameter.dtype == torch.float32 for parameter in encoder.parameters())
        return is_float32 and torch.nn.functional.linear(weight, weight).dtype == torch.float32  # not under autocast

    def _are_plain(self, modules):
        """Whether modules are of known classes, as these were written, and not in training."""
        for kind in {type(module) for module in modules}:
            is_torch = kind.__name__ in self.TORCH_MODULES and kind is getattr(torch.nn, kind.__name__)
            if not is_torch and kind.__name__ not in self.FUNASR_MODULES:
                return False
        replaced = {"forward", "forward_chunk", "encode_chunk", "infer_encoder"}
        if any(module.training or not replaced.isdisjoint(vars(module)) for module in modules):
            return False
        return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)

    @staticmethod
    def _frame_count(samples, chunk_size):
        """How many frames (60 ms, 960 samples each) the model makes of `samples`.

        All of each full chunk. What is left at the end counts from 880 samples on, a stack of seven 10 ms frames.
        """
        full, rest = divmod(len(samples), 960 * chunk_size[1])
        return full * chunk_size[1] + ((rest + 560) // 960 if rest >= 880 else 0)

    def _features(self, samples, frontend, chunk_size):
        """What the frontend makes of (samples,) chunk by chunk: (frames, 7 * n_mels)."""
        frame_count = self._frame_count(samples, chunk_size)
        if frame_count == 0:
            return torch.zeros(0, frontend.output_size())
        # With dither, random numbers are drawn chunk by chunk as the model does, so that they are the same.
        pieces = samples.split(960 * chunk_size[1] if frontend.dither else self.SAMPLES_AT_ONCE)
        cache = frontend.init_cache({})
        fbank = [frontend.forward_fbank(piece[None], [len(piece)], cache=cache)[1] for piece in pieces]
        fbank = torch.cat([frames[0] for frames in fbank if len(frames)])  # (10 ms frames, n_mels)
        first = 6 * torch.arange(frame_count, device=fbank.device)[:, None] - 3
        stacked = (first + torch.arange(7, device=fbank.device)).clamp(0, len(fbank) - 1)  # the ends are repeated
        feats = fbank[stacked].flatten(1).float()
        if frontend.cmvn_file is not None:
            shift, scale = frontend.cmvn.to(feats)
            feats = (feats + shift) * scale
        return feats

    def _windows(self, samples, frontend, chunk_size):
        """The windows (windows, W, D) of an utterance (samples,): each a chunk, with the overlap in front of it.

        There are zeros before the first frame, and after the last one.
        """
        encoder, (_, chunk, overlap) = self.model.encoder, chunk_size
        feats = self._features(samples, frontend, chunk_size).to(encoder.after_norm.weight.device)
        x = encoder.embed(feats[None] * encoder.output_size() ** 0.5, {"start_idx": 0})[0]  # (frames, D)
        missing = -len(x) % chunk if len(x) else chunk
        x = torch.nn.functional.pad(x, (0, 0, overlap, missing))
        return x.unfold(0, overlap + chunk, chunk).transpose(1, 2)

    @torch.no_grad()
    def encode(self, utterances, frontend, chunk_size, look_back):
        """Encode utterances, a list of mono 16 kHz tensors (samples,), to a list of (1, frames, D), a frame for 60 ms.

        All go through the layers together, as N windows. Only attention looks from one window to others.
        """
        if not utterances:
            return []
        encoder, (_, chunk, overlap) = self.model.encoder, chunk_size
        windows = [self._windows(samples, frontend, chunk_size) for samples in utterances]
        frame_counts = [self._frame_count(samples, chunk_size) for samples in utterances]
        bias, mask = self._masks(windows, frame_counts, chunk_size, look_back)
        sizes = [len(own) * chunk for own in windows]
        windows = torch.cat(windows)  # (N, W, D)

        layers = [*encoder.encoders0, *encoder.encoders]
        attention = layers[0].self_attn
        left = dict.fromkeys(layers, windows.new_zeros(2, look_back, attention.h, chunk, attention.d_k))
        encoded = []
        for start in range(0, len(windows), self.WINDOWS_AT_ONCE):
            group = slice(start, start + self.WINDOWS_AT_ONCE)
            x = windows[group]
            for layer in layers:
                x, left[layer] = self._layer(layer, x, left[layer], bias[group], mask[group])
            encoded.append(encoder.after_norm(x[:, overlap:]))  # (windows, chunk, D)
        encoded = torch.cat(encoded).flatten(0, 1).split(sizes)
        return [own[None, :n] for own, n in zip(encoded, frame_counts)]

    @staticmethod
    def _masks(windows, frame_counts, chunk_size, look_back):
        """What to add to attention scores (N, 1, 1, keys), and what to multiply the values of a window by (N, W, 1).

        Of a window's keys, `look_back * chunk` lie before it and W in it. Some are not there: those before the first
        window of an utterance, and those after its last frame.
        """
        (_, chunk, overlap), device = chunk_size, windows[0].device
        number = [i for own in windows for i in range(len(own))]
        length = [min(chunk, n - i * chunk) for own, n in zip(windows, frame_counts) for i in range(len(own))]
        number, length = torch.tensor([number, length], device=device)[:, :, None]  # (N, 1)
        place = torch.arange(-look_back * chunk, overlap + chunk, device=device)  # (keys,)
        is_there = (place >= -chunk * number) & (place < overlap + length)  # (N, keys)
        bias = torch.zeros(is_there.shape, device=device).masked_fill(~is_there, float("-inf"))
        return bias[:, None, None], is_there[:, look_back * chunk :, None].float()

    @staticmethod
    def _layer(layer, x, left, bias, mask):
        """One layer of the encoder on the windows x (N, W, D).

        left: keys and values of the frames that the last windows before these have left behind, (2, look_back, heads,
        chunk, d). Returns the result (N, W, D), and what these windows leave behind in turn.
        """
        attention, (_, look_back, _, chunk, _) = layer.self_attn, left.shape
        q, k, v, values = attention.forward_qkv(layer.norm1(x))  # (N, heads, W, d), and v again as (N, W, D)
        memory = attention.forward_fsmn(values * mask, None)  # (N, W, D)

        own = torch.stack([k, v])  # (2, N, heads, W, d)
        left = torch.cat([left, own[:, :, :, :chunk]], dim=1)  # (2, look_back + N, heads, chunk, d)
        past = left.unfold(1, look_back, 1)[:, :-1].movedim(-1, 3).flatten(3, 4)  # (2, N, heads, look_back * chunk, d)
        k, v = torch.cat([past, own], dim=3)

        scores = q * attention.d_k**-0.5 @ k.transpose(-2, -1) + bias  # (N, heads, W, look_back * chunk + W)
        attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        attended = attention.linear_out(attended) + memory
        x = x + attended if layer.in_size == layer.size else attended
        hidden = layer.feed_forward.w_1(layer.norm2(x)).relu_()  # (N, W, linear_units), in place: it is the largest
        return x + layer.feed_forward.w_2(hidden), left[:, -look_back:].clone()
'''
