"""What a backbone is to the rest of the house.

A backbone turns images and instructions into context features at a few levels. Its way is cut in two at the
last point that no trainable parameter has touched: `prepare` comes before, `transform` after. What comes
before the cut is constant during training and can be cached; freezing the backbone moves the cut to its end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rdvla.backbone.config import LoraSettings
from rdvla.backbone.lora import is_lora
from rdvla.errors import ConfigError
from rdvla.heads import Level

PADDING = -1  # in token ids of `prepare`: a place without a token


@dataclass(frozen=True)
class Features:
    """Context features by level, C wide."""

    vision: Mapping[Level, Tensor]  # level -> (B, M, C)
    latents: Mapping[Level, Tensor]  # level -> (B, L, C)
    attention: Tensor | None = None  # (B, cameras, slots, tokens): where a backbone with slots looks

    def flatten(self) -> dict[str, Tensor]:
        """As one flat dictionary, for a cache."""
        named = {f"vision/{level}": value for level, value in self.vision.items()}
        return named | {f"latents/{level}": value for level, value in self.latents.items()}


@dataclass(frozen=True)
class InstructionSteps:
    """How an exported policy reads an instruction."""

    read: Callable[[Tensor], Tensor]  # (B, T) token ids -> (B, width)
    width: int
    tokens: int | None  # T; None: as many as the instruction has
    longest: int  # bytes or tokens of an instruction; 0: no limit
    tokenizer: Any = None  # of transformers; None: UTF-8 bytes are the tokens


@dataclass(frozen=True)
class ExportSteps:
    """A backbone as functions of tensors alone, which a graph can hold."""

    prepare: Callable[[Tensor, Tensor], dict[str, Tensor]]  # images and (B, width) -> prepared
    instruction: InstructionSteps


class Backbone(nn.Module, ABC):
    """Images and instructions in, context features out."""

    context_width: int  # C
    levels: tuple[Level, ...]  # the levels that `transform` yields
    frozen: bool = False
    lora: LoraSettings | None = None  # of a backbone that has such pairs

    @abstractmethod
    def prepare(self, images: Tensor, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Everything before the first trainable parameter.

        Args:
            images: (B, cameras, H, W, 3) uint8.
            instructions: B sentences.

        Returns:
            Named tensors, each with first dimension B.
        """

    @abstractmethod
    def transform(self, prepared: Mapping[str, Tensor]) -> Features:
        """The rest of the way, with gradient."""

    def predict_environment_state(self, features: Features) -> Tensor:
        """(B, E) standardised environment state, a training signal for perception only.

        Raises:
            NotImplementedError: this backbone has no such read-out.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot predict the environment's state")

    def keypoint_loss(self, features: Features, keypoints: Tensor) -> Tensor:
        """Scalar: how far this backbone looks from where things are, a training signal for perception only.

        Args:
            features: from `transform`.
            keypoints: (B, cameras, P, 2), x to the right and y down, -1 to 1 inside the image.

        Raises:
            NotImplementedError: this backbone does not look at places.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attention to train with keypoints")

    def external_prefixes(self) -> tuple[str, ...]:
        """Starts of the names of published encoders' parameters: a saved policy only names such encoders."""
        return ()

    def base_models(self) -> tuple[str, ...]:
        """Hub ids or folders of the published models that it stands on; their licences go with a policy."""
        return ()

    def constant_prefixes(self) -> tuple[str, ...]:
        """Starts of the names of the parameters that `prepare` computes with: a cache depends on them."""
        return self.external_prefixes()

    def preparation(self) -> dict[str, Any]:
        """What `prepare` computes with beside weights and configuration, for JSON: a cache depends on it.

        A published model's image processor or tokenizer may change under the same name.
        """
        return {}

    def export_steps(self) -> ExportSteps:
        """Return what an export of a whole policy traces.

        Raises:
            ConfigError: this backbone does more than operations on tensors.
        """
        raise ConfigError(
            f"a policy with a {type(self).__name__} cannot be exported as a whole, only one with the "
            "compact backbone: export its head with --part head, and run the backbone with torch"
        )

    def save_files(self, folder: Path) -> None:  # most backbones are all weights
        """Write what else than weights a saved policy needs, such as a tokenizer, into its folder."""

    def load_files(self, folder: Path) -> None:
        """Read what `save_files` wrote.

        Raises:
            RDVLAError: something is missing or damaged.
        """

    def take_over(self, source: Backbone) -> None:
        """Start from another backbone's weights; one without LoRA may give them to one with it.

        Pairs that were trained with another alpha are scaled, so that they still add what they did.

        Raises:
            ConfigError: its parameters do not fit this one's.
        """
        own, theirs = self.state_dict(), source.state_dict()
        names = {}  # ours -> theirs
        for name in theirs:
            module, _, parameter = name.rpartition(".")
            adapted = f"{module}.base_layer.{parameter}"  # what peft calls the weight beside its pair
            names[adapted if name not in own and adapted in own else name] = name
        pairs = {name for name in own.keys() - names.keys() if is_lora(name)}
        other = sorted(own.keys() - names.keys() - pairs | names.keys() - own.keys())
        other += [name for name in names if name in own and own[name].shape != theirs[names[name]].shape]
        if type(source) is not type(self) or other:
            raise ConfigError(
                f"a {type(self).__name__} can only start from one that has the same parts, sizes and LoRA, "
                f"or no LoRA; this {type(source).__name__} differs in {other[:3] or 'kind'}"
            )
        ratio = source.lora.scale / self.lora.scale if source.lora and self.lora else 1.0
        weights = {
            ours: theirs[name] * ratio if ".lora_B." in name else theirs[name] for ours, name in names.items()
        }
        self.load_state_dict(weights, strict=False)

    def freeze(self) -> None:
        """Stop training: every parameter is constant from now on."""
        self.requires_grad_(False)
        self.frozen = True

    def frozen_inputs(self, images: Tensor, instructions: Sequence[str]) -> dict[str, Tensor]:
        """What stays constant during training, per sample: prepared inputs; features where all is frozen."""
        prepared = self.prepare(images, instructions)
        return self.transform(prepared).flatten() if self.frozen else prepared

    def features(self, frozen_inputs: Mapping[str, Tensor]) -> Features:
        """From what `frozen_inputs` returned to the context features."""
        if not self.frozen:
            return self.transform(frozen_inputs)
        return Features(
            vision={level: frozen_inputs[f"vision/{level}"] for level in self.levels},
            latents={level: frozen_inputs[f"latents/{level}"] for level in self.levels},
        )
