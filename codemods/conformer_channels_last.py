"""Keep the frames of the subsampling with their channels last in memory, which its convolutions are faster on.

A convolution of frames (B, C, T, F) that lie in memory as (B, T, F, C) gives frames that lie there in the same way, and so does
all that is between two of them (https://pytorch.org/tutorials/intermediate/memory_format_tutorial.html). The frames that come
in have one channel: for these both orders are the same bytes, so that a view is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.parameters import Value
from apply_opt.model.source import Edit, Source

from ._helpers import check_imported, has_helper
from ._masked_conv import CHANNELS_LAST_HELPER, call_through, calls_layers
from ._scopes import calls

SITE = "layers"
HELPER_TEXT = f'''
def {CHANNELS_LAST_HELPER}(layer, x):
    """`layer(x)`; a convolution gets its frames (B, C, T, F), and gives them, as they lie in memory with the channels last.

    With one channel both orders are the same bytes, and a view is enough. To a kernel of 1 x 1 a dilation means nothing, but it
    has PyTorch choose oneDNN with a single thread, too: what it chooses otherwise would bring the channels to the front again.
    (Not for up to 20480 elements of a single utterance: https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/Convolution.cpp)
    """
    if {{where}}torch.compiler.is_compiling() or not isinstance(layer, nn.Conv2d):
        return layer(x)
    if x.shape[1] == 1:
        x = x.contiguous().view(x.shape[0], x.shape[2], x.shape[3], 1).permute(0, 3, 1, 2)
    is_plain = type(layer) is nn.Conv2d and type(layer.weight) is nn.Parameter and "forward" not in vars(layer)
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    is_pointwise = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    if not is_plain or hooks or not is_pointwise or x.dtype != torch.float32 or x.numel() <= 20480:
        return layer(x)
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return layer(x)
    return nn.functional.conv2d(x, layer.weight, layer.bias, dilation=2)
'''
ON_CPU = 'x.device.type != "cpu" or '


def find(source: Source, parameters: Mapping[str, Value]) -> list[Site]:
    """The site ``layers``: where each layer is called."""
    uses = calls(source, CHANNELS_LAST_HELPER)
    if has_helper(source, CHANNELS_LAST_HELPER, uses, 1):
        return [Site(SITE, uses[0].lineno, OURS)]
    found = calls_layers(source)
    check_imported(source, "torch", "nn")
    return [Site(SITE, found.call.lineno, TODO)]


def edit(source: Source, parameters: Mapping[str, Value], sites: Sequence[Site]) -> list[Edit]:
    """The helper above the class, called in the place of the layer."""
    text = HELPER_TEXT.replace("{where}", ON_CPU if parameters["devices"] == "cpu" else "")
    return call_through(source, CHANNELS_LAST_HELPER, text)
