"""The interface of a backbone, which turns images and instructions into context features at a few levels.

The computation is cut in two where the first trainable parameter enters: `prepare` comes before, `transform`
after. Prepared inputs are constant during training, so they can be cached. Freezing a backbone moves the cut
to its end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rdvla.backbone.config import LoraSettings
from rdvla.backbone.lora import is_lora
from rdvla.errors import ConfigError
from rdvla.heads import Level
from rdvla.heads.checkpointing import Checkpointing

PADDING = -1  # among the token ids of `prepare`


def inside_image(keypoints: Tensor) -> Tensor:
    """(B, cameras, P, 2) points -> (B, cameras, P) bool, whether each is in its image."""
    return (keypoints.abs() < 1).all(dim=-1)


@dataclass(frozen=True)
class Features:
    """Context features by level, C wide."""

    vision: Mapping[Level, Tensor]  # level -> (B, M, C)
    latents: Mapping[Level, Tensor]  # level -> (B, L, C)
    attention: Tensor | None = None  # (B, cameras, slots, tokens), of a backbone with slots

    def flatten(self) -> dict[str, Tensor]:
        """Return one flat dictionary, for a cache."""
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


class Backbone(Checkpointing, ABC):
    """Compute context features from images and instructions."""

    context_width: int  # C
    levels: tuple[Level, ...]  # of the features that `transform` returns
    frozen: bool = False
    lora: LoraSettings | None = None  # None: there are no low-rank pairs

    @abstractmethod
    def prepare(self, images: Tensor, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Compute everything that comes before the first trainable parameter.

        Args:
            images: (B, cameras, H, W, 3) uint8.
            instructions: B sentences.

        Returns:
            Named tensors, each with first dimension B.
        """

    @abstractmethod
    def transform(self, prepared: Mapping[str, Tensor]) -> Features:
        """Compute the features from prepared inputs, with gradient."""

    def checkpoint_gradients(self) -> None:
        """Compute activations twice in training instead of keeping them, if the backbone is trained."""
        self.gradient_checkpointing = True

    def check_instructions(self, instructions: Sequence[str]) -> None:
        """Check that every instruction can be read, before hours of decoding; most backbones read any.

        Raises:
            ConfigError: one is too long; the message has its text and the option that allows it.
        """

    def predict_environment_state(self, features: Features) -> Tensor:
        """Predict the standardised environment state, (B, E): a training signal for perception only.

        Raises:
            NotImplementedError: the backbone has no such output.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot predict the environment's state")

    def keypoint_loss(self, features: Features, keypoints: Tensor) -> Tensor:
        """Compare attention with the keypoints of things: a scalar loss that trains perception only.

        It is a mean over the keypoints that are `inside_image`.

        Args:
            features: from `transform`.
            keypoints: (B, cameras, P, 2), x to the right and y down, -1 to 1 inside the image.

        Raises:
            NotImplementedError: the backbone has no attention over the image.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attention to train with keypoints")

    def external_prefixes(self) -> tuple[str, ...]:
        """Return the starts of names of published parameters, which a saved policy does not hold."""
        return ()

    def base_models(self) -> tuple[str, ...]:
        """Return hub ids or folders of the published models in use; their licences go with a policy."""
        return ()

    def constant_prefixes(self) -> tuple[str, ...]:
        """Return the starts of names of parameters that `prepare` uses; a cache depends on them."""
        return self.external_prefixes()

    def preparation(self) -> dict[str, Any]:
        """Return what `prepare` uses next to weights and configuration, for JSON; a cache depends on it.

        A published model's image processor or tokenizer may change under the same name.
        """
        return {}

    def architecture(self) -> dict[str, Any]:
        """Return the configurations of published models, for JSON; a cache depends on them.

        They say what the weights do not, such as the epsilon of a norm.
        """
        return {}

    def export_steps(self) -> ExportSteps:
        """Return the functions that an export of a whole policy traces.

        Raises:
            ConfigError: the backbone does more than operations on tensors.
        """
        raise ConfigError(
            f"a policy with a {type(self).__name__} cannot be exported as a whole, only one with the "
            "compact backbone: export its head with --part head, and run the backbone with torch"
        )

    def save_files(self, folder: Path) -> Sequence[str]:  # noqa: ARG002  # most backbones are all weights
        """Write the files next to the weights that a saved policy needs, such as a tokenizer.

        Returns:
            Their names below the folder.
        """
        return ()

    def load_files(self, folder: Path) -> None:
        """Read the files that `save_files` wrote.

        Raises:
            RDVLAError: something is missing or damaged.
        """

    def take_over(self, source: Backbone) -> None:
        """Start from another backbone's weights. If it has no LoRA, low-rank pairs stay as they are.

        Pairs that were trained with another alpha are scaled, so they still add the same.

        Raises:
            ConfigError: the parameters do not fit each other.
        """
        own, theirs = self.state_dict(), source.state_dict()
        names = {}  # ours -> theirs
        for name in theirs:
            module, _, parameter = name.rpartition(".")
            adapted = f"{module}.base_layer.{parameter}"  # peft's name of the weight next to a pair
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
        """Return what training keeps constant, per sample: prepared inputs, or features if all is frozen."""
        prepared = self.prepare(images, instructions)
        return self.transform(prepared).flatten() if self.frozen else prepared

    def features(self, frozen_inputs: Mapping[str, Tensor]) -> Features:
        """Compute the context features from `frozen_inputs`."""
        if not self.frozen:
            return self.transform(frozen_inputs)
        return Features(
            vision={level: frozen_inputs[f"vision/{level}"] for level in self.levels},
            latents={level: frozen_inputs[f"latents/{level}"] for level in self.levels},
        )
