"""The shares of a query's time at the paper's size: images, two image encoders, language model, head.

    python -m benchmarks.vision --output runs/bench/vision.json

Random weights of the published sizes in bfloat16, batch 1, two cameras of 256 pixels, a prompt of 40 tokens.
The head runs 8 iterations, as after loading and compiled. Two variants are timed as well. One encodes the
cameras in turn instead of in one batch. The other takes its features from the language model's lower half,
and so has no layers above it; published policies take the states after layers 11 and 23 of 24.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import Spread, hardware, interleave, paired_ratio
from rdvla.backbone import Features, PrismaticBackbone, PrismaticConfig
from rdvla.engine import Engine, compile
from rdvla.files import write_json
from rdvla.heads import RecurrentConfig, RecurrentDepthHead

CAMERAS, PIXELS, PROMPT, DEPTH = 2, 256, 40, 8
WHOLE = "whole query"


def calls(config: PrismaticConfig, head_config: RecurrentConfig) -> dict[str, Callable[[], object]]:
    """Return the calls to time, by name."""
    generator = torch.Generator().manual_seed(0)
    backbone = _random_backbone(config)
    published = backbone.published
    images = torch.randint(0, 256, (CAMERAS, PIXELS, PIXELS, 3), dtype=torch.uint8, generator=generator)
    prompt = torch.randint(1, config.language.vocab_size, (1, PROMPT), generator=generator)
    torch.manual_seed(0)
    head = RecurrentDepthHead(head_config).eval().requires_grad_(False)
    state, proprio = head.initial_state(1, generator), torch.zeros(1, 1, backbone.context_width)

    def patches(pixels: Tensor) -> Tensor:
        found: Tensor = published.projector(published.vision_backbone(pixels))
        return found.reshape(1, -1, backbone.context_width)

    def features(found: Tensor) -> Features:
        return backbone.transform({"patches": found, "prompt": prompt})

    engine = Engine(head)

    def act(found: Features, by: Engine = engine) -> Tensor:
        named = [
            dict(zip(head.config.levels, kind.values(), strict=True))
            for kind in (found.vision, found.latents)
        ]
        context = head.context(vision=named[0], latents=named[1], proprio=proprio)
        actions: Tensor = by.predict(context, stop=DEPTH, initial_state=state).actions
        return actions

    compiled = compile(head, dtype=torch.bfloat16)
    pixels = backbone.image_transform(images)
    given = patches(pixels)
    context_features = features(given)
    shallow = _random_backbone(replace(config, levels=(config.levels[0] // 2, config.levels[0])))
    return {
        WHOLE: lambda: act(backbone.transform({"images": images[None], "prompt": prompt})),
        "images": lambda: backbone.image_transform(images),
        "image encoders": lambda: patches(pixels),
        "image encoders, camera by camera": lambda: [patches(camera[None]) for camera in pixels],
        "language model": lambda: features(given),
        "language model, read at half its depth": lambda: shallow.transform(
            {"patches": given, "prompt": prompt}
        ),
        "head": lambda: act(context_features),
        "head, compiled in bf16": lambda: act(context_features, compiled),
    }


def _random_backbone(config: PrismaticConfig) -> PrismaticBackbone:
    torch.manual_seed(0)
    return PrismaticBackbone(config).eval().requires_grad_(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/vision.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"a query at the paper's size, batch 1, {CAMERAS} cameras, {options.threads} thread(s)", flush=True)
    with torch.no_grad():
        samples = interleave(calls(PrismaticConfig(), RecurrentConfig()), rounds=options.rounds)
    rows = []
    for name, times in samples.items():
        spread, share = Spread.of(times), paired_ratio(times, samples[WHOLE])
        rows.append(
            {"what": name, "ms": spread.median, "spread_ms": [spread.low, spread.high], "share": share.median}
        )
        print(
            f"{name:<42} {share.median:>6.1%} {spread.median:>9.0f} ms ({spread.low:.0f}..{spread.high:.0f})"
        )
    write_json(options.output, {"schema": 1, "hardware": hardware(), "rounds": options.rounds, "rows": rows})
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
