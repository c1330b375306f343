"""Forecasts by a language model that is not trained: series are told to it as prompts and patches.

The public names are those of Time-LLM (M. Jin et al., "Time-LLM: Time Series Forecasting by Reprogramming Large Language Models",
ICLR 2024); the language model is a GPT-2 of any size in ``openai-community/gpt2``, below the current folder.
"""

from math import sqrt

import torch
from layers.DWTPromptGenerator import DWTPromptGenerator
from layers.Embed import PatchEmbedding
from layers.StandardNorm import Normalize
from torch import nn
from transformers import GPT2Config, GPT2Model, GPT2Tokenizer

HUB_NAME = "openai-community/gpt2"


class FlattenHead(nn.Module):
    """The features of all patches to the steps that are wanted."""

    def __init__(self, n_vars, nf, target_window, head_dropout=0):
        super().__init__()
        self.linear = nn.Linear(nf, target_window)
        self.dropout = nn.Dropout(head_dropout)

    def forward(self, x):
        """(B, N, features, patches) to (B, N, steps)."""
        return self.dropout(self.linear(x.flatten(-2)))


class Model(nn.Module):
    """(B, T, N) to (B, pred_len, N). With ``use_dwt_prompt`` a wavelet decomposition writes the prompts."""

    def __init__(self, configs, patch_len=16, stride=8):
        super().__init__()
        self.task_name, self.pred_len, self.seq_len = configs.task_name, configs.pred_len, configs.seq_len
        self.d_ff, self.d_llm, self.top_k = configs.d_ff, configs.llm_dim, 5
        self.llm_config = GPT2Config.from_pretrained(HUB_NAME)
        self.llm_config.num_hidden_layers = configs.llm_layers
        self.llm_config.output_attentions = self.llm_config.output_hidden_states = True
        self.llm_model = GPT2Model.from_pretrained(HUB_NAME, local_files_only=True, config=self.llm_config)
        self.tokenizer = GPT2Tokenizer.from_pretrained(HUB_NAME, local_files_only=True, pad_token="<|endoftext|>")
        for parameter in self.llm_model.parameters():
            parameter.requires_grad = False
        self.description = configs.content if configs.prompt_domain else "Temperatures of transformers."
        self.patch_embedding = PatchEmbedding(configs.d_model, patch_len, stride, configs.dropout)
        vocabulary = self.llm_model.get_input_embeddings()
        self.word_embeddings = vocabulary.weight
        self.num_tokens = 1000
        self.mapping_layer = nn.Linear(vocabulary.num_embeddings, self.num_tokens)
        self.reprogramming_layer = ReprogrammingLayer(configs.d_model, configs.n_heads, self.d_ff, self.d_llm)
        self.patch_nums = (configs.seq_len - patch_len) // stride + 2
        self.output_projection = FlattenHead(
            configs.enc_in, self.d_ff * self.patch_nums, self.pred_len, head_dropout=configs.dropout
        )
        self.normalize_layers = Normalize(configs.enc_in, affine=False)
        self.use_dwt_prompt = getattr(configs, "use_dwt_prompt", False)
        self.dwt_prompt_generator = DWTPromptGenerator(wavelet="db4", level=3) if self.use_dwt_prompt else None

    def forward(self, x_enc, x_mark_enc, x_dec, x_mark_dec, mask=None):
        """The last ``pred_len`` steps of what is forecast."""
        if self.task_name not in ("long_term_forecast", "short_term_forecast"):
            return None
        return self.forecast(x_enc, x_mark_enc, x_dec, x_mark_dec)[:, -self.pred_len :, :]

    def forecast(self, x_enc, x_mark_enc, x_dec, x_mark_dec):
        """A prompt for each series (with wavelets: for each sample), and its patches, through the language model."""
        scaled = self.normalize_layers(x_enc, "norm")
        samples = scaled.transpose(1, 2).contiguous()
        batch, n_vars, steps = samples.shape
        series = samples.reshape(batch * n_vars, steps, 1)
        lowest, highest = series.min(dim=1).values, series.max(dim=1).values
        middle = series.median(dim=1).values
        periods = self.calcute_lags(series)
        slopes = series.diff(dim=1).sum(dim=1)
        prompts = []
        if self.use_dwt_prompt:
            for i in range(batch):
                features = self.dwt_prompt_generator(samples[i : i + 1])
                rows = slice(i * n_vars, (i + 1) * n_vars)
                base_info = {
                    "min": lowest[rows].mean().item(),
                    "max": highest[rows].mean().item(),
                    "median": middle[rows].mean().item(),
                    "lags": periods[i * n_vars].tolist(),
                    "description": self.description,
                    "seq_len": self.seq_len,
                    "pred_len": self.pred_len,
                }
                prompts += [self.dwt_prompt_generator.build_prompt_text(features, base_info)] * n_vars
        else:
            for row in range(len(series)):
                low, high = str(lowest[row].tolist()[0]), str(highest[row].tolist()[0])
                text = (
                    f"<|start_prompt|>{self.description} Forecast {self.pred_len} steps from {self.seq_len}; "
                    f"from {low} to {high}, median {middle[row].tolist()[0]}, going {'up' if slopes[row] > 0 else 'down'}, "
                    f"periods {periods[row].tolist()}<|<end_prompt>|>"
                )
                prompts.append(text)

        tokens = self.tokenizer(prompts, return_tensors="pt", padding=True, truncation=True, max_length=2048).input_ids
        told = self.llm_model.get_input_embeddings()(tokens.to(series.device))
        words = self.mapping_layer(self.word_embeddings.T).T
        patches, n_vars = self.patch_embedding(samples.to(torch.bfloat16))
        patches = self.reprogramming_layer(patches, words, words)
        states = self.llm_model(inputs_embeds=torch.cat([told, patches], dim=1)).last_hidden_state
        states = states[:, -self.patch_nums :, : self.d_ff].transpose(1, 2)
        made = self.output_projection(states.unflatten(0, (batch, n_vars)))
        return self.normalize_layers(made.transpose(1, 2), "denorm")

    def calcute_lags(self, x_enc):
        """The ``top_k`` shifts (rows, top_k) at which each row of (rows, T, 1) is most like itself."""
        one = torch.fft.rfft(x_enc.transpose(1, 2), dim=-1)
        other = torch.fft.rfft(x_enc.transpose(1, 2), dim=-1)
        likeness = torch.fft.irfft(one * torch.conj(other), dim=-1).mean(dim=1)
        return torch.topk(likeness, self.top_k, dim=-1).indices


class ReprogrammingLayer(nn.Module):
    """Patches as mixtures of words: attention of the patches to some mixtures of the vocabulary."""

    def __init__(self, d_model, n_heads, d_keys=None, d_llm=None, attention_dropout=0.1):
        super().__init__()
        inner = n_heads * (d_keys or d_model // n_heads)
        self.query_projection = nn.Linear(d_model, inner)
        self.key_projection, self.value_projection = nn.Linear(d_llm, inner), nn.Linear(d_llm, inner)
        self.out_projection = nn.Linear(inner, d_llm)
        self.n_heads = n_heads
        self.dropout = nn.Dropout(attention_dropout)

    def forward(self, target_embedding, source_embedding, value_embedding):
        """(rows, patches, width), (words, width) twice, to (rows, patches, width of the language model)."""
        queries = self.query_projection(target_embedding).unflatten(-1, (self.n_heads, -1))
        keys = self.key_projection(source_embedding).unflatten(-1, (self.n_heads, -1))
        values = self.value_projection(value_embedding).unflatten(-1, (self.n_heads, -1))
        return self.out_projection(self.reprogramming(queries, keys, values).flatten(-2))

    def reprogramming(self, target_embedding, source_embedding, value_embedding):
        """The attention, head by head."""
        scores = torch.einsum("rphc,whc->rhpw", target_embedding, source_embedding) / sqrt(target_embedding.shape[-1])
        return torch.einsum("rhpw,whc->rphc", self.dropout(scores.softmax(-1)), value_embedding)
