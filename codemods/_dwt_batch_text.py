"""What is written into the module of a wavelet prompt generator: the features of a whole batch at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

ROWS, HELPER = "_RowByRow", "_BatchFeatures"
TEXT = '''
class ROWS(torch.overrides.TorchFunctionMode):
    """Convolves each row as if it were alone: a single one goes through another kernel of PyTorch's than several.

    That kernel is a product of the filters and the row's windows; should it be another one, rows are convolved one by one.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not nn.functional.conv1d or len(args) != 2 or set(kwargs) != {"stride"}:
            return function(*args, **kwargs)
        rows, filters = args
        windows = rows[:, 0].unfold(1, filters.shape[-1], kwargs["stride"]).transpose(1, 2).contiguous()
        made = torch.stack([torch.mm(filters[:, 0], window) for window in windows])
        if torch.equal(made[:1], function(rows[:1], filters, **kwargs)):
            return made
        return torch.cat([function(row, filters, **kwargs) for row in rows.split(1)])


class HELPER:
    """The features of each sample of a batch (B, N, T), as `forward` of a generator finds them for that sample alone.

    `digits` is how many digits after the point prompts show of a number.
    """

    near = 2e-3
    """How far the numbers of `forward` on a GPU may be from the exact ones, relatively: its convolutions use TF32."""
    matrices = {}

    def __init__(self, generator):
        self.generator = generator
        self.digits = DIGITS

    def of(self, x):
        """The features in a dictionary, by the number of the sample.

        A sample that is not in it is to be looked at alone: with no finite numbers, too short, not of floating point, alone
        anyway; or, on a GPU, so near to where words change that the order of a sum decides.
        """
        generator = self.generator
        is_hooked = generator._forward_hooks or generator._forward_pre_hooks or "forward" in vars(generator)
        is_hooked = is_hooked or torch.nn.modules.module._has_any_global_hook()
        if type(generator) is not GENERATOR or is_hooked or not torch.is_tensor(x) or x.dim() != 3 or len(x) < 2:
            return {}
        if not x.numel() or not x.is_floating_point() or x.shape[2] < 2**generator.level:
            return {}
        if x.device.type not in ("cpu", "cuda") or torch.is_autocast_enabled() or torch.get_default_dtype() != torch.float32:
            return {}
        with torch.no_grad():
            return self.by_convolution(x) if x.device.type == "cpu" else self.by_products(x)

    def bands(self, rows):
        """The decomposition (rows, coefficients) of `rows` (rows, T), for each band; nothing, where there is none."""
        generator = self.generator
        try:
            bands = ptwt.wavedec(rows[:, None], generator.wavelet, level=generator.level, mode=MODE)
        except Exception:
            return []  # what is wrong, `forward` says in its own words
        return [band.flatten(1) for band in bands]

    def by_convolution(self, x):
        """The features, bit for bit: the operations of `forward`, with the batch as one more dimension."""
        B, N, T = x.shape
        with ROWS() if N == 1 else torch.no_grad():
            bands = [band.reshape(B, N, -1) for band in self.bands(x.reshape(B * N, T).float())]
        if not bands or bands[0].dtype != torch.float32:  # half the bits, under autocast
            return {}
        energies = torch.stack([self.sums_of_squares(band) for band in bands])
        total = sum(energies)
        empty = (total == 0).any(dim=1, keepdim=True)
        ratio = torch.where(empty, torch.ones_like(energies) / len(bands), energies / total.clamp(min=1e-10))
        safe = ratio.clamp(min=1e-10)
        terms = safe * torch.log(safe)
        if len(bands) > 4:  # of more than four, PyTorch adds those of some variables up in another order than those of others
            entropy = -torch.stack([torch.sum(terms[:, b].contiguous(), dim=0) for b in range(B)])
        else:
            entropy = -torch.sum(terms, dim=0)
        entropy = entropy.clamp(min=0).mean(dim=1)
        votes = nn.functional.one_hot(ratio.argmax(dim=0), len(bands)).sum(dim=1)
        trends = [self.means(band[..., 1:] - band[..., :-1]) for band in bands]
        numbers = [entropy, votes.argmax(dim=1), empty[:, 0], *ratio.mean(dim=2), *trends, *self.stds(bands), total.amax(dim=1)]
        found, K = {}, len(bands)
        for b, (entropy, band, is_empty, *rows) in enumerate(torch.stack(numbers, dim=1).tolist()):
            if abs(entropy + sum(rows)) < float("inf"):
                ratio = np.array(rows[:K], dtype=np.float32).reshape((K,) if is_empty else (K, 1))
                found[b] = self.features(ratio, entropy, int(band), rows[K : 2 * K], rows[2 * K : 3 * K])
        return {b: features for b, features in found.items() if features}

    def sums_of_squares(self, band):
        """The energy of each row of `band` (B, N, L): (B, N). A single long row goes alone, for the reason that `means` gives."""
        if band[0].shape[0] == 1 and band[0].numel() > 32768:
            return torch.stack([torch.sum(sample**2, dim=-1) for sample in band])
        return torch.sum(band**2, dim=-1)

    def means(self, band):
        """`torch.mean` of each sample of `band` (B, N, L): (B,).

        Large samples go one by one: PyTorch shares the numbers of such a one among threads, but not those of a row of several.
        """
        if band[0].numel() > 32768:
            return torch.stack([torch.mean(sample) for sample in band])
        return band.mean(dim=(1, 2))

    def stds(self, bands):
        """`torch.std` of each sample of each band, on a CPU: squares in float64 around the mean in float32. (B,) for each band.

        Where the order in which they are added may decide to which float32 the result is rounded, `torch.std` does.
        """
        around = [band.double() - self.means(band)[:, None, None] for band in bands]
        exact = torch.stack([((a * a).sum(dim=(1, 2)) / (a[0].numel() - 1)).sqrt() for a in around])
        made = exact.float()
        for k, b in ((exact * (1 - 1e-12)).float() != (exact * (1 + 1e-12)).float()).nonzero().tolist():
            made[k, b] = torch.std(bands[k][b])
        return made

    def by_products(self, x):
        """The features from two products in float64, with a single copy to the host: the numbers of `forward` but for rounding.

        A sample is left out where rounding may decide on a word, or on a digit that is printed.
        """
        B, N, T = x.shape
        linear, squares, lengths = self.analysis(T, x.device)
        if not len(lengths):
            return {}
        K = len(lengths)
        made = x.reshape(B * N, T).float().double() @ linear
        made = torch.cat([made[:, : 2 * K], made[:, 2 * K :] ** 2 @ squares], dim=1).cpu().numpy()
        sums, changes, energies = np.moveaxis(made.reshape(B, N, 3, K), 2, 0)
        with np.errstate(all="ignore"):
            ratio = energies / energies.sum(axis=2, keepdims=True)
            safe = ratio.clip(1e-10)
            entropy = -(safe * np.log(safe)).sum(axis=2).mean(axis=1)
            votes = (ratio.argmax(axis=2)[..., None] == np.arange(K)).sum(axis=1)
            unsure = (np.diff(np.sort(ratio, axis=2)[..., -2:])[..., 0] < self.near).sum(axis=1)
            sure = (unsure == 0) | (np.diff(np.sort(votes, axis=1)[:, -2:])[:, 0] > 2 * unsure)
            power = energies.sum(axis=1) / (N * lengths)
            stds = ((power - (sums.sum(axis=1) / (N * lengths)) ** 2) * (N * lengths) / (N * lengths - 1)).clip(0) ** 0.5
            trends = changes.mean(axis=1)
            sure &= (energies.sum(axis=2).min(axis=1) > 1e-6) & (energies.max(axis=(1, 2)) < 1e36)
            sure &= (stds > 0.1 * power**0.5).all(axis=1)
            far = self.near * (power**0.5 + energies.max(axis=1) ** 0.5) / (lengths - 1) + 1e-5 * power**0.5
            sure &= (abs(trends) > far).all(axis=1)
        found = {}
        for b in sure.nonzero()[0].tolist():
            numbers = ratio[b].mean(axis=0)[:, None], entropy[b], int(votes[b].argmax()), trends[b].tolist(), stds[b]
            features = self.settled(*numbers)
            if features:
                found[b] = features
        return found

    def analysis(self, T, device):
        """The decomposition of `T` steps, and what is summed up of it, as matrices in float64; and the lengths of the K bands.

        `linear` (T, 2 K + coefficients): the sum over each band, its mean change, all coefficients. `squares` (coefficients, K)
        adds up a band's.
        """
        generator = self.generator
        key = generator.wavelet, generator.level, KEY
        if key not in self.matrices:
            bands = self.bands(torch.eye(T, dtype=torch.float64))
            sums = [band.sum(dim=1, keepdim=True) for band in bands]
            changes = [(band[:, -1:] - band[:, :1]) / max(1, band.shape[1] - 1) for band in bands]
            squares = [torch.ones(band.shape[1], 1, dtype=torch.float64) for band in bands]
            linear = torch.cat([*sums, *changes, *bands], dim=1) if bands else torch.zeros(T, 0)
            if len(self.matrices) > 7:
                self.matrices.clear()
            lengths = np.array([band.shape[1] for band in bands])
            self.matrices[key] = linear.to(device), torch.block_diag(*squares).to(device), lengths
        return self.matrices[key]

    def settled(self, ratio, entropy, band, trends, stds):
        """The features, if a little more or less of any number leaves all words and printed digits the same."""
        import itertools

        told = []
        for up, loud, side in itertools.product((1, -1), repeat=3):
            near = stds.copy()
            near[1:-1] *= 1 + up * self.near * np.resize([1, side], len(stds) - 2)
            near[[0, -1]] *= 1 + loud * self.near, 1 - loud * self.near
            moved = ratio * (1 + loud * self.near)
            features = self.features(moved, float(entropy) + up * self.near, band, trends, near.tolist())
            words = [value for value in features.values() if isinstance(value, str)]
            told.append([*words, *(self.shown(features, name) for name in self.digits)])
        features = self.features(ratio, float(entropy), band, trends, stds.tolist())
        return features if features and all(words == told[0] for words in told) else {}

    def shown(self, features, name):
        """The number as far as prompts show it; of rows of numbers all of it, so that no two are the same."""
        number = features.get(name)
        return round(number, self.digits[name]) if isinstance(number, float) else object()

    def features(self, ratio, entropy, band, trends, stds):
        """Numbers and words as `forward` has them: `ratio` float32 (K, 1) or (K,); `trends` and `stds` K numbers.

        Nothing, where there are no words: then `forward` raises, when it is the sample's turn.
        """
        try:
            return self.described(ratio, entropy, band, trends, stds)
        except Exception:
            return {}

    def described(self, ratio, entropy, band, trends, stds):
        """The same, or what a method for words raises."""
        generator = self.generator
        signs = [(trend > 0) - (trend < 0) for trend in trends]
        consistency = signs.count(signs[0]) / len(signs) if signs[0] else 0.5
        signal, noise = stds[0], stds[-1]
        snr = 60.0 if signal else 0.0
        if noise:
            noise = max(noise, 1e-10)
            snr = float(min(max(10 * np.log10(max(signal**2 / noise**2, 1e-10)), -60), 60))
        energy = float(ratio[band].item())
        frequencies = {
            "energy_ratio": ratio.astype(np.float32),
            "energy_entropy": entropy,
            "dominant_band": band,
            "dominant_energy": energy,
            "freq_pattern": generator._map_frequency_pattern(entropy, band, energy),
        }
        changes = {
            "trends": np.array(trends, dtype=np.float32),
            "trends_sign": np.array(signs, dtype=np.int32),
            "trend_consistency": consistency,
            "trend_desc": generator._map_trend_pattern(signs, consistency),
        }
        quality = {
            "frequency_stds": np.array(stds, dtype=np.float32),
            "signal_std": signal,
            "noise_std": noise,
            "snr_db": snr,
            "volatility_ratio": stds[-1] / (stds[0] + 1e-10),
            "stability_desc": generator._analyze_volatility_pattern(stds),
            "signal_quality": generator._map_quality_pattern(snr),
        }
        difficulty = generator._calculate_difficulty(frequencies, changes, quality)
        return {**frequencies, **changes, **quality, "difficulty": difficulty}
'''
METHOD = "features_of_each"
METHOD_TEXT = '''
def features_of_each(self, x_enc):
    """The features of each sample of (B, N, T) by its number, from one decomposition; without those that `forward` is for."""
    return HELPER(self).of(x_enc)
'''


def classes(cls: str, mode: str, digits: Mapping[str, int], condition: str) -> str:
    """The two classes for a generator called ``cls``; ``mode`` is what says how its decomposition treats the ends of a series.

    ``digits`` is with how many digits after the point ``generator`` prints which number, if ``condition`` holds.
    """
    shown = "{" + ", ".join(f'"{name}": {number}' for name, number in digits.items()) + "}"
    if condition:
        shown = f"{{}}\n        if {condition}:\n            self.digits = {shown}"
    parts = {
        "KEY": f"T, device, {mode}" if mode.startswith("generator.") else "T, device",
        "MODE": mode,
        "DIGITS": shown,
    }
    parts |= {"ROWS": ROWS, "HELPER": HELPER, "GENERATOR": cls}
    return re.sub("|".join(parts), lambda found: parts[found[0]], TEXT)


def method() -> str:
    """The method of the generator."""
    return METHOD_TEXT.replace("HELPER", HELPER)
