"""What a wavelet decomposition says of a sample, in words for a prompt."""

import numpy as np
import ptwt
import torch
from torch import nn


class DWTPromptGenerator(nn.Module):
    """A sample (1, N, T) to a dictionary of features: numbers, and words for them. The variables are looked at together."""

    def __init__(self, wavelet="db4", level=3, compression_level="balanced"):
        super().__init__()
        self.wavelet, self.level, self.compression = wavelet, level, compression_level
        self.thresholds = {
            "energy_entropy_low": 0.5,
            "energy_entropy_high": 1.0,
            "dominant_energy_high": 0.7,
            "trend_consistency_high": 0.75,
            "snr_high": 20,
            "snr_mid": 10,
            "difficulty_low": 15,
            "difficulty_high": 30,
        }

    def forward(self, x_enc):
        """The features. Raises :class:`ValueError` for values that are no numbers, :class:`RuntimeError` for too short samples."""
        if not torch.is_tensor(x_enc):
            raise TypeError(f"a tensor is needed, not {type(x_enc)}")
        if x_enc.dim() != 3:
            raise ValueError(f"(B, N, T) is needed, not {tuple(x_enc.shape)}")
        B, N, T = x_enc.shape
        if 2**self.level > T:
            raise RuntimeError(f"{T} steps are too few for {self.level} levels")
        if torch.isnan(x_enc).any() or torch.isinf(x_enc).any():
            raise ValueError("the sample has NaN or infinity in it")
        try:
            bands = ptwt.wavedec(x_enc.reshape(B * N, 1, T).float(), self.wavelet, level=self.level, mode="reflect")
        except Exception as error:
            raise RuntimeError(f"no decomposition into {self.level} levels of {self.wavelet}: {error}") from error
        found = [self._extract_frequency_features(bands), self._extract_trend_features(bands)]
        found.append(self._extract_quality_features(bands))
        return {**found[0], **found[1], **found[2], "difficulty": self._calculate_difficulty(*found)}

    def _extract_frequency_features(self, coeffs):
        """How the energy is spread over the bands."""
        energies = [torch.sum(c**2, dim=-1) for c in coeffs]
        total = sum(energies)
        if torch.any(total == 0):
            energy_ratio = torch.ones(len(coeffs), len(total), device=total.device) / len(coeffs)
        else:
            energy_ratio = torch.stack([energy / total.clamp(min=1e-10) for energy in energies])
        safe = torch.clamp(energy_ratio, min=1e-10)
        energy_entropy = -torch.sum(safe * torch.log(safe), dim=0)
        entropy = torch.clamp(energy_entropy, min=0).mean().item()
        counts = torch.bincount(torch.argmax(energy_ratio, dim=0).flatten(), minlength=len(coeffs))
        dominant_band = torch.argmax(counts).item()
        dominant_energy = energy_ratio[dominant_band].mean().item()
        return {
            "energy_ratio": energy_ratio.mean(dim=1).detach().cpu().numpy().astype(np.float32),
            "energy_entropy": float(entropy),
            "dominant_band": int(dominant_band),
            "dominant_energy": float(dominant_energy),
            "freq_pattern": self._map_frequency_pattern(entropy, dominant_band, dominant_energy),
        }

    def _extract_trend_features(self, coeffs):
        """Whether the bands go up or down, and together or not."""
        trends = []
        for c in coeffs:
            if c.shape[-1] < 2:
                raise ValueError(f"a band of {c.shape[-1]} has no trend")
            trends.append((c[..., 1:] - c[..., :-1]).mean().item())
        trends_sign = [(t > 0) - (t < 0) for t in trends]
        same = sum(s == trends_sign[0] for s in trends_sign) / len(trends_sign)
        consistency = same if trends_sign[0] != 0 else 0.5
        return {
            "trends": np.array(trends, dtype=np.float32),
            "trends_sign": np.array(trends_sign, dtype=np.int32),
            "trend_consistency": float(consistency),
            "trend_desc": self._map_trend_pattern(trends_sign, consistency),
        }

    def _extract_quality_features(self, coeffs):
        """How loud the bands are, the finest as noise."""
        stds = [max(0.0, torch.std(c).item()) for c in coeffs]
        signal_std, noise_std = stds[0], stds[-1]
        if noise_std == 0:
            snr_db = 60.0 if signal_std else 0.0
        else:
            noise_std = max(noise_std, 1e-10)
            snr_db = float(np.clip(10 * np.log10(max(signal_std**2 / noise_std**2, 1e-10)), -60, 60))
        return {
            "frequency_stds": np.array(stds, dtype=np.float32),
            "signal_std": float(signal_std),
            "noise_std": float(noise_std),
            "snr_db": float(snr_db),
            "volatility_ratio": float(stds[-1] / (stds[0] + 1e-10)),
            "stability_desc": self._analyze_volatility_pattern(stds),
            "signal_quality": self._map_quality_pattern(snr_db),
        }

    def _calculate_difficulty(self, freq_feat, trend_feat, quality_feat):
        """Three grades of a score from 0 to 100."""
        disorder = np.clip(freq_feat["energy_entropy"] / np.log(self.level + 1), 0, 1)
        noise = 1 / (1 + np.exp((quality_feat["snr_db"] - 10) / 5))
        score = 40 * (1 - trend_feat["trend_consistency"]) + 35 * disorder + 25 * noise
        low, high = self.thresholds["difficulty_low"], self.thresholds["difficulty_high"]
        return "low" if score < low else "moderate" if score < high else "high"

    def _map_frequency_pattern(self, entropy, dominant_idx, dominant_energy):
        low, high = self.thresholds["energy_entropy_low"], self.thresholds["energy_entropy_high"]
        words = "one scale" if entropy < low else "two scales" if entropy < high else "many scales"
        return words + (f" (band {dominant_idx})" if dominant_energy > self.thresholds["dominant_energy_high"] else "")

    def _map_trend_pattern(self, trends_sign, consistency):
        direction = "up" if trends_sign[0] > 0 else "down"
        if consistency == 1.0:
            return f"all {direction}"
        if consistency >= self.thresholds["trend_consistency_high"]:
            return f"mostly {direction}"
        return f"mixed ({sum(s > 0 for s in trends_sign)} of {len(trends_sign)} up)"

    def _analyze_volatility_pattern(self, stds):
        ratio = stds[-1] / (stds[0] + 1e-10)
        return "steady" if ratio < 0.5 else "balanced" if ratio < 2 else "volatile"

    def _map_quality_pattern(self, snr_db):
        high, mid = self.thresholds["snr_high"], self.thresholds["snr_mid"]
        return "clean" if snr_db > high else "fair" if snr_db > mid else "noisy"

    def build_prompt_text(self, features, base_info):
        """The prompt for a sample with these features."""
        return (
            f"<|start_prompt|>{base_info['description']} Forecast {base_info['pred_len']} steps from {base_info['seq_len']}; "
            f"from {base_info['min']:.2f} to {base_info['max']:.2f}, median {base_info['median']:.2f}; "
            f"{features['freq_pattern']}, {features['trend_desc']}, {features['signal_quality']}, {features['stability_desc']}, "
            f"{features['difficulty']}; periods {[int(lag) for lag in base_info['lags'][:3]]}<|<end_prompt>|>"
        )
