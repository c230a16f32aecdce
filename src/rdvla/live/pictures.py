"""Camera images as small JPEGs, encoded once however many watch."""

from __future__ import annotations

import base64
import io
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 480  # pixels of the longer side on the page
SMALLEST = 96  # of a thumbnail
QUALITY = 82
KEPT = 256  # pictures


class Pictures:
    """Encodes images for the page and keeps the latest, for any number of threads."""

    def __init__(self) -> None:
        # By the image's id, which another image may get once this one is gone: hence the reference.
        self._kept: OrderedDict[tuple[int, int], tuple[weakref.ref[NDArray[np.uint8]], str]] = OrderedDict()
        self._lock = threading.Lock()
        self.encoded = 0  # images so far

    def all(self, images: Mapping[str, NDArray[np.uint8]], *, largest: int = LARGEST) -> dict[str, str]:
        """Return each camera's image as a base64 JPEG of at most `largest` pixels a side."""
        return {camera: self._one(image, largest) for camera, image in images.items()}

    def thumbnail(self, images: Mapping[str, NDArray[np.uint8]]) -> str | None:
        """Return the first camera's image, small; None if there is no camera."""
        return next((self._one(image, SMALLEST) for image in images.values()), None)

    def _one(self, image: NDArray[np.uint8], largest: int) -> str:
        place = (id(image), largest)
        with self._lock:
            known = self._kept.get(place)
            if known is not None and known[0]() is image:
                self._kept.move_to_end(place)
                return known[1]
        text = base64.b64encode(jpeg(image, largest=largest)).decode("ascii")
        with self._lock:
            self.encoded += 1
            self._kept[place] = (weakref.ref(image), text)
            self._kept.move_to_end(place)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return text


def jpeg(image: NDArray[np.uint8], *, largest: int | None = None) -> bytes:
    """Return an image (H, W, 3) as a JPEG, of at most `largest` pixels a side."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    if largest is not None and max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
