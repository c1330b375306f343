"""The vq06 tokenizer as an ONNX model: two convolutions, an encoder of transformer layers, the nearest codebook row."""

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

import whisper
from sizes import Transformer
from speech import SAMPLE_RATE

MEL_BINS, CODES = 128, 4096
PIECE_SAMPLES = 30 * SAMPLE_RATE
MAX_FRAMES = 750  # of 40 ms
MASKED = -1e4


class Graph:
    """Nodes and weights as they come together; every value's name is that of what it is."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, torch.Tensor] = {}

    def add(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def weight(self, name: str, value: torch.Tensor) -> str:
        self.weights[name] = value.detach()
        return name

    def linear(self, x: str, name: str, layer: torch.nn.Linear) -> str:
        product = self.add("MatMul", [x, self.weight(f"{name}_weight", layer.weight.T)], f"{name}_product")
        return self.add("Add", [product, self.weight(f"{name}_bias", layer.bias)], name)

    def norm(self, x: str, name: str, width: int) -> str:
        scale, shift = self.weight(f"{name}_scale", torch.ones(width)), self.weight(f"{name}_shift", torch.zeros(width))
        return self.add("LayerNormalization", [x, scale, shift], name)

    def model(self, output: str, kind: int, shape: list) -> onnx.ModelProto:
        """Inputs: feats, float32 (B, 128, T), and feats_length, int32 (B,): the frames that count."""
        graph = helper.make_graph(
            self.nodes,
            "speech_tokenizer_v1",
            inputs=[
                helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["B", MEL_BINS, "T"]),
                helper.make_tensor_value_info("feats_length", TensorProto.INT32, ["B"]),
            ],
            outputs=[helper.make_tensor_value_info(output, kind, shape)],
            initializer=[numpy_helper.from_array(value.numpy(), name) for name, value in self.weights.items()],
        )
        # IR version 8 goes with opset 17; the default one is too new for some runtimes.
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def speech_tokenizer(audio: torch.Tensor, size: Transformer, generator: torch.Generator) -> onnx.ModelProto:
    """A model of log-mel frames (100 per second) to codes (25 per second), the codebook fitted to (1, samples).

    Output: codes, int32 (B, ceil(T / 4)), 0 past ceil(feats_length / 4). Padding is masked at every stage, so that an item
    has the same codes in any batch, up to rounding.
    """
    graph = Graph()
    _subsample(graph, size.width)
    x = _encode(graph, size)
    encoder = graph.model(x, TensorProto.FLOAT, ["B", "T_codes", size.width])
    codebook = kmeans(_frames(encoder, audio), CODES, generator)

    # The nearest code has the least |code|^2 - 2 frame . code.
    graph.add("MatMul", [x, graph.weight("minus_2_codes", -2 * codebook.T)], "products")
    graph.add("Add", ["products", graph.weight("code_norms", codebook.square().sum(dim=1))], "distances")
    graph.add("ArgMin", ["distances"], "nearest", axis=2, keepdims=0)
    graph.add("Squeeze", ["mask_4", graph.weight("channel_axis", torch.tensor([1]))], "code_mask")
    graph.add("Cast", ["code_mask"], "code_mask_int", to=TensorProto.INT64)
    graph.add("Mul", ["nearest", "code_mask_int"], "masked_codes")
    graph.add("Cast", ["masked_codes"], "codes", to=TensorProto.INT32)
    model = graph.model("codes", TensorProto.INT32, ["B", "T_codes"])
    onnx.checker.check_model(model, full_check=True)
    return model


def _subsample(graph: Graph, width: int) -> None:
    """feats to "frames" (B, width, T / 4), with "mask_4" (B, 1, T / 4): 1 where a frame counts."""
    convs = [torch.nn.Conv1d(channels, width, 3, stride=2, padding=1) for channels in (MEL_BINS, width)]
    for name, value in {
        "zero": torch.tensor(0),
        "one": torch.tensor(1),
        "two": torch.tensor([2]),
        "time_axis": torch.tensor([2]),
        "start": torch.tensor([0]),
        "end": torch.tensor([2**31 - 1]),
        "length_axes": torch.tensor([1, 2]),
    }.items():
        graph.weight(name, value)
    graph.add("Shape", ["feats"], "frame_count_1", start=2, end=3)
    graph.add("Squeeze", ["frame_count_1"], "frame_count")
    graph.add("Range", ["zero", "frame_count", "one"], "times")
    graph.add("Cast", ["feats_length"], "length", to=TensorProto.INT64)
    graph.add("Unsqueeze", ["length", "length_axes"], "length_3d")
    graph.add("Less", ["times", "length_3d"], "valid")
    graph.add("Cast", ["valid"], "mask", to=TensorProto.FLOAT)  # (B, 1, T)
    graph.add("Slice", ["mask", "start", "end", "time_axis", "two"], "mask_2")
    graph.add("Slice", ["mask_2", "start", "end", "time_axis", "two"], "mask_4")
    x = graph.add("Mul", ["feats", "mask"], "masked_feats")
    for number, (conv, mask) in enumerate(zip(convs, ("mask_2", "mask_4")), 1):
        weights = [graph.weight(f"conv{number}_weight", conv.weight), graph.weight(f"conv{number}_bias", conv.bias)]
        x = graph.add("Conv", [x, *weights], f"conv{number}", kernel_shape=[3], strides=[2], pads=[1, 1])
        x = graph.add("Relu", [x], f"relu{number}")
        x = graph.add("Mul", [x, mask], "frames" if number == 2 else f"masked{number}")


def _encode(graph: Graph, size: Transformer) -> str:
    """ "frames" through the transformer layers: (B, T / 4, width)."""
    angles = torch.arange(MAX_FRAMES)[:, None] / 10000 ** (torch.arange(0, size.width, 2) / size.width)
    graph.weight("positions", torch.cat([angles.sin(), angles.cos()], dim=1))
    graph.weight("first_axis", torch.tensor([0]))
    rows = graph.add("Transpose", ["frames"], "rows", perm=[0, 2, 1])
    graph.add("Shape", [rows], "row_count", start=1, end=2)
    graph.add("Slice", ["positions", "start", "row_count", "first_axis"], "own_positions")
    x = graph.add("Add", [rows, "own_positions"], "placed")
    graph.weight("float_one", torch.tensor(1.0))
    graph.add("Sub", ["float_one", "mask_4"], "padding")
    graph.add("Mul", ["padding", graph.weight("masked", torch.tensor(MASKED))], "bias_3d")
    graph.add("Unsqueeze", ["bias_3d", graph.weight("head_axis", torch.tensor([1]))], "bias")  # (B, 1, 1, T / 4)
    graph.weight("to_heads", torch.tensor([0, 0, 3, size.heads, size.width // size.heads]))
    graph.weight("from_heads", torch.tensor([0, 0, size.width]))
    graph.weight("scale", torch.tensor((size.width // size.heads) ** -0.5))
    for index in (0, 1, 2):
        graph.weight(f"index_{index}", torch.tensor(index))
    for number in range(size.layers):
        x = _layer(graph, x, f"layer{number}", size)
    return graph.norm(x, "encoded", size.width)


def _layer(graph: Graph, x: str, name: str, size: Transformer) -> str:
    """One transformer layer, norms first."""
    width = size.width
    qkv = torch.nn.Linear(width, 3 * width)
    heads = graph.linear(graph.norm(x, f"{name}_norm1", width), f"{name}_qkv", qkv)
    heads = graph.add("Reshape", [heads, "to_heads"], f"{name}_split")
    heads = graph.add("Transpose", [heads], f"{name}_heads", perm=[2, 0, 3, 1, 4])  # (3, B, heads, T, width / heads)
    q, k, v = (graph.add("Gather", [heads, f"index_{i}"], f"{name}_{part}", axis=0) for i, part in enumerate("qkv"))
    k = graph.add("Transpose", [k], f"{name}_k_transposed", perm=[0, 1, 3, 2])
    scores = graph.add("Mul", [graph.add("MatMul", [q, k], f"{name}_products"), "scale"], f"{name}_scaled")
    scores = graph.add("Softmax", [graph.add("Add", [scores, "bias"], f"{name}_scores")], f"{name}_weights", axis=-1)
    attended = graph.add("MatMul", [scores, v], f"{name}_attended")
    attended = graph.add("Transpose", [attended], f"{name}_by_frame", perm=[0, 2, 1, 3])
    attended = graph.add("Reshape", [attended, "from_heads"], f"{name}_joined")
    x = graph.add("Add", [x, graph.linear(attended, f"{name}_out", torch.nn.Linear(width, width))], f"{name}_residual1")
    hidden = graph.linear(graph.norm(x, f"{name}_norm2", width), f"{name}_up", torch.nn.Linear(width, 4 * width))
    hidden = graph.add("Relu", [hidden], f"{name}_active")
    down = graph.linear(hidden, f"{name}_down", torch.nn.Linear(4 * width, width))
    return graph.add("Add", [x, down], f"{name}_residual2")


def _frames(encoder: onnx.ModelProto, audio: torch.Tensor) -> torch.Tensor:
    """What comes out of the encoder for (1, samples): (frames, width)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # sums come out the same on any number of cores
    session = onnxruntime.InferenceSession(encoder.SerializeToString(), options, ["CPUExecutionProvider"])
    found = []
    for piece in audio.split(PIECE_SAMPLES, dim=1):
        feats = whisper.log_mel_spectrogram(piece, n_mels=MEL_BINS).numpy()
        length = np.array([feats.shape[2]], dtype=np.int32)
        found.append(torch.from_numpy(session.run(None, {"feats": feats, "feats_length": length})[0][0]))
    return torch.cat(found)


def kmeans(frames: torch.Tensor, codes: int, generator: torch.Generator, rounds: int = 3) -> torch.Tensor:
    """A codebook (codes, D) for `frames` (at least codes, D)."""
    chosen = torch.randperm(len(frames), generator=generator)[:codes]
    means = frames[chosen].clone()
    for _ in range(rounds):
        nearest = torch.cdist(frames, means).argmin(dim=1)
        counts = torch.bincount(nearest, minlength=codes)
        sums = torch.zeros_like(means).index_add_(0, nearest, frames)
        means = torch.where(counts[:, None] > 0, sums / counts[:, None], means)
    return means
