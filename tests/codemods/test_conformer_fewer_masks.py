"""``conformer_fewer_masks``: where a masked Sequential goes through its layers, in whatever form; nowhere else."""

from __future__ import annotations

import pytest
from cases import above, block, constant, lands, refuses, replaced, skips
from conformer import CLASS, END, LOOP, MORE, NUMBERED, TOP, USE, module

from apply_opt.errors import Ambiguous, Conflict, NoSite, PartlyApplied
from apply_opt.model.plan import ALREADY

NAME = "conformer_fewer_masks"
HELPER = constant(NAME, "HELPER_TEXT")
MASKED_LOOP = NUMBERED.replace(
    "    x = apply_channel_mask(x, mask)\n", "    if i in masked:\n        x = apply_channel_mask(x, mask)\n"
)
MASKED_END = "if len(self) in masked:\n    x = apply_channel_mask(x, mask)"
ASK = "masked = _layers_to_mask(self)\n"


def changed(loop: str = MASKED_LOOP, end: str = MASKED_END, **pieces: str) -> str:
    """The module with the change in it."""
    return above(module(ASK + block(loop), end, **pieces), pieces.get("cls", CLASS)[:20], HELPER)


class TestLands:
    def test_as_it_is_in_nemo(self) -> None:
        lands(NAME, module(), changed())
        lands(NAME, module(NUMBERED), changed())

    def test_other_names(self) -> None:
        names = (
            ("apply_channel_mask", "hide"),
            ("MaskedConvSequential", "Front"),
            ("layer", "step"),
            ("mask)", "kept)"),
            ("mask =", "kept ="),
        )
        before, after = module(), changed()
        for old, new in names:
            before, after = before.replace(old, new), after.replace(old, new)
        helper = "\n".join(line for line in HELPER.strip("\n").split("\n"))
        for old, new in names:
            helper = helper.replace(old, new)
        after = after.replace(helper, HELPER.strip("\n")).replace("_steps_to_mask", "_layers_to_mask")
        lands(NAME, before, after)

    @pytest.mark.parametrize(
        "apply",
        [
            "def apply_channel_mask(tensor, mask):\n    return mask[:, None] * tensor",
            "def apply_channel_mask(tensor, mask):\n    mask = mask[:, None].expand_as(tensor)\n    return tensor * mask",
            "def apply_channel_mask(tensor, mask):\n    result = tensor * mask.unsqueeze(dim=1)\n    return result",
        ],
    )
    def test_other_ways_to_multiply(self, apply: str) -> None:
        lands(NAME, module(apply=apply), changed(apply=apply))

    def test_a_method_that_masks(self) -> None:
        more = MORE + "\ndef hide(self, tensor, mask):\n    return tensor * mask[:, None]\n"
        pieces = {"more": more, "apply": ""}
        loop, end = LOOP.replace("apply_channel_mask", "self.hide"), END.replace("apply_channel_mask", "self.hide")
        after = (
            MASKED_LOOP.replace("apply_channel_mask", "self.hide"),
            MASKED_END.replace("apply_channel_mask", "self.hide"),
        )
        lands(NAME, module(loop, end, **pieces), changed(*after, **pieces))

    def test_a_product_in_the_loop(self) -> None:
        product = "x * mask.unsqueeze(1)"
        loop, end = (
            LOOP.replace("apply_channel_mask(x, mask)", product),
            END.replace("apply_channel_mask(x, mask)", product),
        )
        after = [text.replace("apply_channel_mask(x, mask)", product) for text in (MASKED_LOOP, MASKED_END)]
        lands(NAME, module(loop, end, apply=""), changed(*after, apply=""))

    def test_handed_to_the_layer_at_once(self) -> None:
        loop = LOOP.replace(
            "    x = apply_channel_mask(x, mask)\n    x = layer(x)", "    x = layer(apply_channel_mask(x, mask))"
        )
        after = loop.replace("for layer in self", "for i, layer in enumerate(self)")
        after = after.replace(
            "layer(apply_channel_mask(x, mask))", "layer((apply_channel_mask(x, mask) if i in masked else x))"
        )
        lands(NAME, module(loop), changed(after))

    def test_given_back_at_once(self) -> None:
        before = module().replace(
            f"        {END}\n        return x, lengths", "        return apply_channel_mask(x, mask), lengths"
        )
        after = changed().replace(
            f"{block(MASKED_END, 8)}\n        return x, lengths",
            "        return (apply_channel_mask(x, mask) if len(self) in masked else x), lengths",
        )
        lands(NAME, before, after)

    def test_another_way_through_the_layers(self) -> None:
        layers = "self._modules.values()"
        before, after = LOOP.replace("in self:", f"in {layers}:"), MASKED_LOOP.replace("(self):", f"({layers}):")
        lands(NAME, module(before), changed(after))

    def test_numbers_that_have_another_name(self) -> None:
        lands(
            NAME,
            module(NUMBERED.replace("i, ", "at, ")),
            changed(MASKED_LOOP.replace("i, ", "at, ").replace("if i ", "if at ")),
        )

    def test_comments_and_carriage_returns(self) -> None:
        before = LOOP.replace("    x = apply", "    # before the layer\n    x = apply")
        after = MASKED_LOOP.replace("    if i in", "    # before the layer\n    if i in")
        lands(NAME, module(before), changed(after))
        lands(NAME, module().replace("\n", "\r\n"), changed().replace("\n", "\r\n"))

    def test_another_function_that_is_scripted(self) -> None:
        top = TOP + "\n\n\n@torch.jit.script\ndef double(x: int) -> int:\n    return 2 * x"
        lands(NAME, module(top=top), changed(top=top))

    def test_a_sequential_of_another_spelling(self) -> None:
        cls = "class MaskedConvSequential(torch.nn.Sequential):\n"
        lands(NAME, module(cls=cls), changed(cls=cls))


class TestRefuses:
    def test_no_masks(self) -> None:
        refuses(NAME, module("for layer in self:\n    x = layer(x)", ""), NoSite, "not masked once before each layer")

    def test_an_older_version(self) -> None:
        method = "    def forward(self, x):\n        return self.conv(x)\n"
        text = f"import torch\nfrom torch import nn\n\n\nclass ConvSubsampling(nn.Module):\n{method}"
        refuses(NAME, text, NoSite, "from 2.5.0 on")

    def test_a_class_that_nobody_uses(self) -> None:
        use = USE.replace("MaskedConvSequential(*layers)", "nn.Sequential(*layers)")
        refuses(NAME, module(use=use), NoSite, "is not used in this file", "would gain nothing")

    def test_two_classes_of_one_name(self) -> None:
        refuses(
            NAME,
            module() + "\n\nclass MaskedConvSequential:\n    pass\n",
            Ambiguous,
            "two classes are called MaskedConvSequential",
        )

    def test_two_such_classes(self) -> None:
        other = module(top="", apply="", use=USE.replace("Masked", "Other")).replace(
            CLASS, CLASS.replace("Masked", "Other")
        )
        refuses(NAME, module() + other, Ambiguous, "several classes go through their layers")

    def test_a_subclass_with_a_forward_of_its_own(self) -> None:
        text = (
            module()
            + "\n\nclass Mine(MaskedConvSequential):\n    def forward(self, x, lengths):\n        return x, lengths\n"
        )
        refuses(NAME, text, Ambiguous, "Mine has its own forward")

    def test_scripted(self) -> None:
        refuses(NAME, module() + "\nfront = torch.jit.script(ConvSubsampling())\n", Conflict, "torch.jit.script")

    def test_decorated(self) -> None:
        text = replaced(module(), ("    def forward(self, x", "    @torch.compile\n    def forward(self, x"))
        refuses(NAME, text, Conflict, "is decorated")

    @pytest.mark.parametrize(
        "line",
        ["self.seen.append(x)", "x = x + 1", "self.last = x", "print(x.mean())"],
    )
    def test_the_frames_are_looked_at_between_the_layers(self, line: str) -> None:
        refuses(NAME, module(LOOP + f"    {line}\n"), Ambiguous)

    @pytest.mark.parametrize(
        "call",
        ["x = layer(x, mask)", "x = layer(x) if self.on else x", "x = self.drop(layer(x))", "x = layer(layer(x))"],
    )
    def test_layers_that_are_called_in_another_way(self, call: str) -> None:
        refuses(NAME, module(replaced(LOOP, ("x = layer(x)", call))), Ambiguous)

    def test_masks_behind_the_layer(self) -> None:
        loop = replaced(
            LOOP,
            (
                "    x = apply_channel_mask(x, mask)\n    x = layer(x)",
                "    x = layer(x)\n    x = apply_channel_mask(x, mask)",
            ),
        )
        refuses(NAME, module(loop), Ambiguous, "not simply masked, and then handed to the layer")

    def test_no_mask_at_the_end(self) -> None:
        refuses(NAME, module(end="x = x.relu()"), NoSite, "not masked once more behind the loop")

    def test_masks_in_place(self) -> None:
        apply = "def apply_channel_mask(tensor, mask):\n    tensor.mul_(mask.unsqueeze(1))\n    return tensor"
        refuses(NAME, module(apply=apply), Conflict, "overwrites the caller's frames")

    def test_fills_instead(self) -> None:
        apply = "def apply_channel_mask(tensor, mask):\n    return tensor.masked_fill(mask.unsqueeze(1) == 0, 0.0)"
        refuses(NAME, module(apply=apply), NoSite)

    def test_names_that_are_taken(self) -> None:
        refuses(NAME, module(top=TOP + "\n_layers_to_mask = 1"), Conflict, "already uses the name _layers_to_mask")
        refuses(NAME, module("masked = 1\n" + block(LOOP)), Ambiguous, "a variable called masked")

    def test_nn_is_not_imported(self) -> None:
        refuses(
            NAME,
            module(top="import torch", cls="class MaskedConvSequential(torch.nn.Sequential):\n"),
            Ambiguous,
            "not imported as nn",
        )

    def test_half_of_it(self) -> None:
        refuses(
            NAME,
            replaced(changed(), ("        masked = _layers_to_mask(self)\n", "        masked = range(9)\n")),
            PartlyApplied,
        )
        refuses(NAME, changed().replace(HELPER.strip("\n"), ""), PartlyApplied)

    def test_twice(self) -> None:
        refuses(NAME, above(changed(), CLASS, HELPER), PartlyApplied, "defined more than once")


def test_already_there() -> None:
    skips(NAME, changed(), ALREADY)


class TestWhatWouldChangeTheResult:
    """Each of these landed once, and gave other frames."""

    @pytest.mark.parametrize("layers", ["self.children()", "enumerate(self.children())", "enumerate(self, start=1)"])
    def test_other_numbers(self, layers: str) -> None:
        loop = (
            NUMBERED.replace("enumerate(self)", layers)
            if "enumerate" in layers
            else LOOP.replace("in self:", f"in {layers}:")
        )
        refuses(NAME, module(loop), NoSite, "no Sequential goes through")

    @pytest.mark.parametrize(
        "line",
        [
            "i += 1",
            "layer = twice(layer) if i == 4 else layer",
            "if i == 2:\n        continue",
            "if i == 2:\n        break",
        ],
    )
    def test_not_each_layer_in_turn(self, line: str) -> None:
        loop = NUMBERED.replace("    x = apply", f"    {line}\n    x = apply")
        refuses(NAME, module(loop), Ambiguous, "does not simply go through the layers")

    @pytest.mark.parametrize("line", ["x = x + 1", "x = x - x.mean()", "later = lambda: x", "later = (x for y in x)"])
    def test_frames_used_ahead_of_the_last_mask(self, line: str) -> None:
        refuses(NAME, module(end=f"{line}\n{END}"), Ambiguous, "the frames are used")

    @pytest.mark.parametrize("line", ["x.mul_(2)", "x *= 2"])
    def test_written_to_behind_the_last_mask(self, line: str) -> None:
        refuses(NAME, module(end=f"{END}\n{line}"), Ambiguous, "is written to")

    def test_written_to_by_the_caller(self) -> None:
        use = (
            USE.rstrip("\n")
            + "\n\n    def forward(self, x, n):\n        x, n = self.conv(x, n)\n        x *= 0.5\n        return x\n"
        )
        refuses(NAME, module(use=use), Ambiguous, "is written to")
        use = use.replace("x *= 0.5", "x = x * 0.5")
        lands(NAME, module(use=use), changed(use=use))

    def test_a_mask_of_other_numbers(self) -> None:
        refuses(NAME, module(more=MORE.replace("inside[:, :, None]", "0.5 * inside[:, :, None]")), Ambiguous, "0 and 1")
        loop = LOOP.replace("self._create_mask(x, lengths)", "self._create_mask(x, lengths) * 0.5")
        refuses(NAME, module(loop), Ambiguous, "0 and 1")

    @pytest.mark.parametrize(
        "apply",
        [
            "def apply_channel_mask(tensor, mask):\n    tensor = tensor.clamp(0)\n    return tensor * mask.unsqueeze(1)",
            "def apply_channel_mask(tensor, mask):\n    out = tensor * mask.unsqueeze(1)\n    out += 0.25\n    return out",
            "def apply_channel_mask(tensor, mask):\n    out = tensor * mask.unsqueeze(1)\n    out = out - 1\n    return out",
            "def apply_channel_mask(tensor, mask):\n    out = tensor * mask.unsqueeze(1)\n    out.add_(1)\n    return out",
            "@twice\ndef apply_channel_mask(tensor, mask):\n    return tensor * mask.unsqueeze(1)",
            "def apply_channel_mask(tensor, mask):\n    return tensor * mask.unsqueeze(1)\n\n\napply_channel_mask = twice",
        ],
    )
    def test_a_function_that_does_more(self, apply: str) -> None:
        refuses(NAME, module(apply=apply), NoSite, "masked")

    def test_a_factor_that_is_no_mask(self) -> None:
        loop, end = (text.replace("apply_channel_mask(x, mask)", "x * self.unmasked_gain") for text in (LOOP, END))
        refuses(NAME, module(loop, end, apply=""), NoSite, "masked")

    def test_names_that_mean_something_else(self) -> None:
        refuses(NAME, module(NUMBERED, top=f"{TOP}\nenumerate = other"), Ambiguous, "enumerate")
        refuses(NAME, module(end=f"{END}\nself.kept = locals()"), Conflict, "locals()")
