import io
import threading
import time
import os

import numpy as np
import torch
import onnxruntime
import whisper

from funasr_detach import AutoModel
from utils import energy_norm_fn, resample_audio, trim_silence, write_wav
from model_loader import model_loader, ModelSource


class StepAudioTokenizer:
    """Speech to discrete tokens of two kinds.

    vq02: linguistic tokens in [0, 1024), 60 ms each, the nearest codebook row of each encoder frame.
    vq06: semantic tokens in [0, 4096), 40 ms each, from an ONNX model of log-mel frames.
    Audio is a float32 tensor (1, samples) in [-1, 1]; at 16 kHz where no sample rate is given.
    """

    SAMPLE_RATE = 16000
    VQ06_PIECE_SAMPLES = 30 * SAMPLE_RATE
    VQ06_MIN_SAMPLES = 480
    VQ06_OFFSET = 1024
    TOKEN_OFFSET = 65536
    SESSION_SECONDS = 600  # a session left alone for longer is dropped

    def __init__(
        self,
        encoder_path,
        model_source=ModelSource.AUTO,
        funasr_model_id="dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
    ):
        """Load the models of the encoder folder `encoder_path`; make_model.py builds one."""
        self.funasr_model: AutoModel = model_loader.load_funasr_model(
            encoder_path, funasr_model_id, source=model_source, model_revision="main"
        )
        repo_path = self.funasr_model.repo_path
        self.kms = torch.from_numpy(np.load(os.path.join(repo_path, "linguistic_tokenizer.npy")))

        providers = ["CUDAExecutionProvider"]
        session_option = onnxruntime.SessionOptions()
        session_option.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"  # idle threads sleep: torch has threads of its own
        )
        session_option.intra_op_num_threads = 1
        self.ort_session = onnxruntime.InferenceSession(
            os.path.join(repo_path, "speech_tokenizer_v1.onnx"), sess_options=session_option, providers=providers
        )

        self.chunk_size = [0, 4, 5]  # as SANMEncoderChunkOpt.forward_chunk has it
        self.encoder_chunk_look_back, self.decoder_chunk_look_back = 4, 1

        self.vq02_sessions = {}  # session id: (time of last use, cache)
        self.vq02_lock, self.vq06_lock = threading.Lock(), threading.Lock()

    def __call__(self, audio, sr):
        """Audio at `sr` Hz to a token string, as merge_vq0206_to_token_str gives."""
        _, vq02, vq06 = self.wav2token(audio, sr)
        return self.merge_vq0206_to_token_str(vq02, vq06)

    def preprocess_wav(self, audio, sample_rate, enable_trim=True, energy_norm=True):
        """Resample to 16 kHz, normalize the energy, trim silence: (channels, samples) to (1, samples)."""
        audio = resample_audio(audio.mean(dim=0, keepdim=True), sample_rate, self.SAMPLE_RATE)
        audio = energy_norm_fn(audio) if energy_norm else audio
        if not enable_trim:
            return audio
        trimmed = trim_silence(audio[0].cpu().numpy(), self.SAMPLE_RATE)
        return torch.from_numpy(trimmed).to(audio.device)[None]

    def wav2token(self, audio, sample_rate, enable_trim=True, energy_norm=True):
        """Tokenize a whole utterance at `sample_rate` Hz.

        Returns three lists: the speech tokens, 2 of vq02 then 3 of vq06 for every 120 ms, each kind offset
        into its own range, and the vq02 and vq06 tokens as they were.
        """
        audio = self.preprocess_wav(audio, sample_rate, enable_trim, energy_norm)
        vq02, vq06 = self.get_vq02_code(audio), self.get_vq06_code(audio)
        return [self.TOKEN_OFFSET + token for token in self.interleave(vq02, vq06)], vq02, vq06

    def get_vq02_code(self, audio, session_id=None, is_final=True):
        """The vq02 tokens of an utterance, or of its next part.

        An utterance may come in parts: all have the same session_id, and is_final on the last alone. The
        tokens of the parts together are those of the whole.
        """
        if session_id is None and not is_final:
            raise ValueError("an utterance that goes on needs a session_id")
        file = io.BytesIO()
        write_wav(file, audio.cpu().numpy(), self.SAMPLE_RATE)
        file.seek(0)

        with self.vq02_lock:  # the sessions below are shared
            now = time.monotonic()
            self.vq02_sessions = {
                name: (used, cache)
                for name, (used, cache) in self.vq02_sessions.items()
                if now - used < self.SESSION_SECONDS
            }
            _, cache = self.vq02_sessions.pop(session_id, (now, {}))
            look_back = {
                "encoder_chunk_look_back": self.encoder_chunk_look_back,
                "decoder_chunk_look_back": self.decoder_chunk_look_back,
            }
            results, cache = self.funasr_model.infer_encoder(
                input=[file], cache=cache, is_final=is_final, chunk_size=self.chunk_size, **look_back
            )
            if not is_final:
                self.vq02_sessions[session_id] = (time.monotonic(), cache)
            return self.dump_label(results[0]["enc_out"], self.kms)

    def get_vq06_code(self, audio):
        """The vq06 tokens of (1, samples), in pieces of 30 s; a piece under 30 ms has none."""
        feats_name, length_name = (i.name for i in self.ort_session.get_inputs())
        tokens = []
        with self.vq06_lock:  # as upstream: one run at a time
            for piece in audio.split(self.VQ06_PIECE_SAMPLES, dim=1):
                if piece.shape[1] < self.VQ06_MIN_SAMPLES:
                    continue
                feats = whisper.log_mel_spectrogram(piece, n_mels=128)  # (1, 128, frames)
                length = np.array([feats.shape[2]], dtype=np.int32)
                codes = self.ort_session.run(None, {feats_name: feats.cpu().numpy(), length_name: length})[0]
                tokens += codes[0].tolist()
        return tokens

    def kmean_cluster(self, samples, means):
        """The index of the row of `means` (codes, D) nearest to each of `samples` (frames, D)."""
        return torch.cdist(samples, means).argmin(dim=1)

    def dump_label(self, samples, mean):
        """Encoder output (1, frames, D) to a list of codebook rows."""
        return self.kmean_cluster(samples[0].to(mean.device), mean).tolist()

    def merge_vq0206_to_token_str(self, vq02, vq06):
        """Both kinds interleaved as text, "<audio_N><audio_N>...", vq06 offset by 1024."""
        return "".join(f"<audio_{token}>" for token in self.interleave(vq02, vq06))

    def interleave(self, vq02, vq06):
        """2 of vq02, then 3 of vq06 offset by 1024, and so on while both last."""
        tokens = []
        for group in range(min(len(vq02) // 2, len(vq06) // 3)):
            tokens += vq02[2 * group : 2 * group + 2]
            tokens += [self.VQ06_OFFSET + token for token in vq06[3 * group : 3 * group + 3]]
        return tokens
