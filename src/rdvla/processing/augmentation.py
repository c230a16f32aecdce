"""Random changes of camera images in training: crop, brightness, contrast, saturation and hue.

They are defined and ordered as in the training code of the OpenVLA family, which uses TensorFlow's image
operations, except that grey levels are rounded at the end instead of cut. Imports torch only when images are
changed: the numbers are part of a run's configuration, which needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdvla.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WHITE = 255.0
NUMBERS = 6  # drawn per image, whatever is switched on: the others stay the same when one is switched off
# Pixels that are changed at once on a CPU: intermediate results stay in its cache.
CPU_PIXELS = 2**17


@dataclass(frozen=True)
class Augmentation:
    """How far images are changed; the paper takes 0.9, 0.2, 0.2, 0.2 and 0.05."""

    crop_area: float = 1.0  # share of the area that a crop keeps, scaled back to the image's size; 1: off
    brightness: float = 0.0  # largest share of white that is added or taken away, 0: off
    contrast: float = 0.0  # c: distance to the image's mean colour times 1 - c .. 1 + c, 0: off
    saturation: float = 0.0  # s: saturation (HSV) times 1 - s .. 1 + s, 0: off
    hue: float = 0.0  # largest turn of the colour circle either way, in turns, 0: off

    def __post_init__(self) -> None:
        if not 0 < self.crop_area <= 1:
            raise ConfigError(
                f"augmentation.crop_area is {self.crop_area}; it must be above 0 and at most 1 (off)."
            )
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(
                    f"augmentation.{name} is {getattr(self, name)}; it must be from 0 (off) to {most:g}."
                )

    @property
    def is_on(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augmentation()

    def draw(self, count: int, *, generator: torch.Generator) -> ImageChanges:
        """Draw the changes of `count` images, each its own."""
        import torch

        top, left, *colours = torch.rand(NUMBERS, count, generator=generator)
        side = self.crop_area**0.5
        brightness, contrast, saturation, hue = (2 * colour - 1 for colour in colours)
        return ImageChanges(
            top=top * (1 - side),
            left=left * (1 - side),
            side=torch.full_like(top, side),
            brightness=brightness * self.brightness,
            contrast=1 + contrast * self.contrast,
            saturation=1 + saturation * self.saturation,
            hue=hue * self.hue,
        )


@dataclass(frozen=True)
class ImageChanges:
    """What happens to each of N images; every field is (N,)."""

    top: Tensor  # of the crop, as a share of the image's height
    left: Tensor
    side: Tensor  # of the crop, as a share of the image's; 1: the whole image
    brightness: Tensor  # added, as a share of white
    contrast: Tensor  # factor of the distance to the mean colour
    saturation: Tensor  # factor
    hue: Tensor  # turns

    def select(self, images: slice) -> ImageChanges:
        """Return what happens to some of the images."""
        return ImageChanges(**{name: value[images] for name, value in vars(self).items()})

    def apply(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> the same shape and type, on the same device."""
        import torch

        changed = torch.empty_like(images)
        for part in self._parts(images):
            colours = images[part].movedim(-1, 1).float()  # (n, 3, H, W), 0..255
            for step in (self._crop, self._brighten, self._stretch_contrast, self._turn_colours):
                colours = step(colours, part)
            changed[part] = colours.round_().to(torch.uint8).movedim(1, -1)
        return changed

    def move(self, points: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Return where points of the images are afterwards: outside -1..1 if the crop left them out.

        Args:
            points: (N, P, 2), x to the right and y down, -1 to 1 inside the image.
            size: height and width of the images in pixels.
        """
        import torch

        height, width = size
        pixels = torch.tensor([width, height], device=points.device)
        corner = torch.stack([self.left, self.top], dim=-1).to(points)[:, None] * (pixels - 1)
        place = ((points + 1) / 2 * pixels - 0.5 - corner) / self.side.to(points)[:, None, None]
        return (place + 0.5) / pixels * 2 - 1

    def _parts(self, images: Tensor) -> Iterator[slice]:
        _, height, width, _ = images.shape
        step = CPU_PIXELS // (height * width) if images.device.type == "cpu" else len(images)
        return (slice(first, first + max(1, step)) for first in range(0, len(images), max(1, step)))

    def _crop(self, colours: Tensor, part: slice) -> Tensor:
        import torch

        if bool((self.side == 1).all()):
            return colours
        corner = torch.stack([self.left, self.top])[:, part].to(colours.device)
        side = self.side[part].to(colours.device)
        # The outermost samples lie on the edges of the crop, as TensorFlow's do.
        x, y = (
            2 * (first[:, None] + side[:, None] * torch.linspace(0, 1, number, device=colours.device)) - 1
            for first, number in zip(corner, (colours.shape[3], colours.shape[2]), strict=True)
        )
        size = (len(colours), *colours.shape[2:])
        grid = torch.stack([x[:, None, :].expand(size), y[:, :, None].expand(size)], dim=-1)
        return torch.nn.functional.grid_sample(
            colours, grid, mode="bilinear", padding_mode="border", align_corners=True
        )

    def _brighten(self, colours: Tensor, part: slice) -> Tensor:
        if not bool(self.brightness.any()):
            return colours
        return (colours + WHITE * _per_image(self.brightness[part], colours)).clamp_(0, WHITE)

    def _stretch_contrast(self, colours: Tensor, part: slice) -> Tensor:
        if bool((self.contrast == 1).all()):
            return colours
        factor, mean = _per_image(self.contrast[part], colours), colours.mean(dim=(2, 3), keepdim=True)
        return (colours * factor + mean * (1 - factor)).clamp_(0, WHITE)

    def _turn_colours(self, colours: Tensor, part: slice) -> Tensor:
        """Change saturation and hue of HSV. The largest colour, the value, stays."""
        import torch

        if bool((self.saturation == 1).all()) and not bool(self.hue.any()):
            return colours
        red, green, blue = colours.unbind(dim=1)
        value = torch.maximum(torch.maximum(red, green), blue)
        chroma = value - torch.minimum(torch.minimum(red, green), blue)
        per_chroma = 1 / chroma.clamp(min=1e-6)
        sixths = torch.where(  # of the colour circle, from red
            value == red,
            (green - blue) * per_chroma,
            torch.where(value == green, 2 + (blue - red) * per_chroma, 4 + (red - green) * per_chroma),
        )
        sixths += 6 * _per_image(self.hue[part], sixths)
        # saturation = chroma / value, at most 1
        chroma = torch.minimum(chroma * _per_image(self.saturation[part], chroma), value)
        changed = torch.empty_like(colours)
        for channel, offset in enumerate((5, 3, 1)):
            distance = torch.remainder(sixths + offset, 6)
            distance = torch.minimum(distance, 4 - distance).clamp_(0, 1)
            torch.sub(value, chroma * distance, out=changed[:, channel])
        return changed


def _per_image(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like).view(-1, *[1] * (like.ndim - 1))
