"""What thinking costs: N tokens of text against r iterations of the head, behind the same backbone.

    python -m benchmarks.reasoning --size paper --dtype bfloat16 --output runs/bench/reasoning.json

Batch 1, random weights (the time does not depend on them).

Text is timed from prompt embeddings (images are encoded) to the hidden states of the latents, with keys and
values cached and the likeliest token taken. N tokens cost that time minus the time without text in the same
round. The head is timed from those hidden states to the normalised action chunk.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Spread, hardware, interleave
from rdvla.backbone.huggingface.families import Family
from rdvla.backbone.huggingface.language import LanguageReader, Prompt, Reasoning
from rdvla.engine import Engine
from rdvla.files import write_json
from rdvla.heads import Context, RecurrentConfig, RecurrentDepthHead

TIMER = (
    "text: prompt embeddings ready -> hidden states of the latents; head: those -> normalised action chunk"
)
TOKENS = (8, 32, 128)  # N
DEPTHS = (1, 8, 32)  # r


@dataclass(frozen=True)
class Size:
    """Sizes of a backbone's language model, its prompt, and the head that follows."""

    width: int  # D
    feedforward: int  # inner width of the language model's layers
    layers: int
    heads: int  # attention heads of the language model
    key_value_heads: int
    vocabulary: int
    images: int  # M, image tokens of the prompt
    text: int  # text tokens of the prompt
    latents: int  # L
    head_heads: int  # attention heads of the action head


SIZES = {
    "tiny": Size(32, 64, 2, 2, 1, 100, images=8, text=6, latents=4, head_heads=2),
    # Qwen2.5-0.5B with two cameras of 256 tokens, 64 latents, and the 72.3 M head.
    "paper": Size(896, 4864, 24, 14, 2, 151_936, images=512, text=40, latents=64, head_heads=8),
}


@dataclass(frozen=True)
class Query:
    """An observation on its way: inputs of the language model, and the head that follows."""

    reader: LanguageReader
    prompt: Prompt
    latents: Tensor  # (1, L, D)
    engine: Engine
    context: Context
    initial_state: Tensor  # (1, K, D)

    def read(self) -> None:
        """Run the language model over prompt and latents, without text."""
        none = torch.zeros(1, 0, dtype=torch.int64)
        with torch.no_grad():
            self.reader.read(self.prompt, tokens=none, latents=self.latents)

    def reason(self, tokens: int) -> Reasoning:
        """Run the language model over the prompt, generated text and latents."""
        reasoning = self.reader.reason(self.prompt, at_most=tokens)
        self.reader.finish(self.prompt, reasoning, self.latents)
        return reasoning

    def iterate(self, depth: int) -> Tensor:
        """Return the head's actions after `depth` iterations, (1, K, A)."""
        actions: Tensor = self.engine.predict(
            self.context, stop=depth, initial_state=self.initial_state
        ).actions
        return actions


def build(size: Size, dtype: torch.dtype) -> Query:
    """Make a query of random weights and features."""
    torch.manual_seed(0)
    reader = make_reader(size, dtype)
    levels = reader.layers
    config = RecurrentConfig(
        hidden_dim=size.width,
        num_heads=size.head_heads,
        prelude=levels[:1],
        core=(levels[1], levels[1]),
        coda=levels[1:],
    )
    head = RecurrentDepthHead(config).to(dtype).eval().requires_grad_(False)
    is_image = torch.zeros(1, size.images + size.text, dtype=torch.bool)
    is_image[:, : size.images] = True
    embeddings = torch.randn(*is_image.shape, size.width, dtype=dtype) * 0.02
    return Query(
        reader=reader,
        prompt=Prompt(embeddings, mask=torch.ones_like(is_image), is_image=is_image, features={}),
        latents=torch.randn(1, size.latents, size.width, dtype=dtype) * 0.02,
        engine=Engine(head),
        context=head.context(
            vision={level: torch.randn(1, size.images, size.width, dtype=dtype) for level in levels},
            latents={level: torch.randn(1, size.latents, size.width, dtype=dtype) for level in levels},
            proprio=torch.randn(1, 1, size.width, dtype=dtype),
        ),
        initial_state=head.initial_state(1),
    )


def make_reader(size: Size, dtype: torch.dtype) -> LanguageReader:
    """Make a language model of random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.feedforward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM._from_config(config, dtype=dtype).eval().requires_grad_(False)
    layers = (size.layers // 2, size.layers)
    return LanguageReader(model.model, model.lm_head, family=Family(), layers=layers, grid=1, ends=())


def cache_bytes(reasoning: Reasoning) -> int:
    """Return the bytes of the keys and values that a query has kept."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in reasoning.cache.layers)


def measure(query: Query, *, tokens: Sequence[int], depths: Sequence[int], rounds: int) -> dict[str, Any]:
    """Time text and iterations in turn, and count the memory that they keep."""
    candidates: dict[str, Callable[[], object]] = {"no text": query.read}
    candidates |= {f"text {n}": lambda n=n: query.reason(n) for n in tokens}  # type: ignore[misc]
    candidates |= {f"depth {r}": lambda r=r: query.iterate(r) for r in depths}  # type: ignore[misc]
    samples = interleave(candidates, rounds=rounds)
    plain = samples["no text"]
    text = {n: [a - b for a, b in zip(samples[f"text {n}"], plain, strict=True)] for n in tokens}
    iterations = {r: samples[f"depth {r}"] for r in depths}
    # A query without text keeps no cache; to generate, the prompt's keys and values are kept too.
    kept = {n: cache_bytes(query.reason(n)) for n in tokens}
    return {
        "backbone_ms": asdict(Spread.of(plain)),
        "text": [_row("tokens", n, text[n], **_memory(query, n, kept[n])) for n in tokens],
        "iterations": [
            _row("depth", r, iterations[r], state_bytes=query.initial_state.nbytes) for r in depths
        ],
        "ratios": [
            {"tokens": n, "depth": r, "times_longer": asdict(_ratio(text[n], iterations[r]))}
            for n in tokens
            for r in depths
        ],
        "rounds": rounds,
    }


def _row(name: str, count: int, samples: Sequence[float], **numbers: int) -> dict[str, Any]:
    each = [sample / count for sample in samples]
    return {name: count, "ms": asdict(Spread.of(samples)), "ms_each": asdict(Spread.of(each)), **numbers}


def _memory(query: Query, tokens: int, cache: int) -> dict[str, int]:
    length = query.prompt.length + tokens + query.latents.shape[1]
    return {"cache_bytes": cache, "cache_bytes_of_tokens": cache // length * tokens}


def _ratio(text: Sequence[float], head: Sequence[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(text, head, strict=True)])


def format_result(result: dict[str, Any]) -> str:
    """Lay the result out as a table."""
    lines = [f"backbone without text: {result['backbone_ms']['median']:.1f} ms"]
    lines.append(f"{'':<14}{'ms more':>10}{'quartiles':>18}{'ms each':>10}  kept in memory")
    for row in result["text"]:
        kept = f"{_kib(row['cache_bytes_of_tokens'])} of {_kib(row['cache_bytes'])} with the prompt's"
        lines.append(_line(f"{row['tokens']} tokens", row, kept))
    lines += [
        _line(f"{row['depth']} iterations", row, _kib(row["state_bytes"])) for row in result["iterations"]
    ]
    lines += [_ratio_line(row) for row in result["ratios"]]
    return "\n".join(lines)


def _ratio_line(row: dict[str, Any]) -> str:
    ratio = row["times_longer"]
    return (
        f"{row['tokens']} tokens take {ratio['median']:.1f} times ({ratio['low']:.1f}..{ratio['high']:.1f}) "
        f"as long as {row['depth']} iterations"
    )


def _line(name: str, row: dict[str, Any], kept: str) -> str:
    spread = f"{row['ms']['low']:.1f}..{row['ms']['high']:.1f}"
    return f"{name:<14}{row['ms']['median']:>10.1f}{spread:>18}{row['ms_each']['median']:>10.2f}  {kept}"


def _kib(count: int) -> str:
    return f"{count / 2**10:.1f} KiB"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reasoning", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="paper")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="N, lengths of text")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help="r, iterations of the head")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/reasoning.json"))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    query = build(SIZES[options.size], getattr(torch, options.dtype))
    result = {
        "schema": 1,
        "what": f"text against iterations, {options.size} size, batch 1, {options.dtype}",
        "timer": TIMER,
        "hardware": hardware(),
        "size": asdict(SIZES[options.size]),
    }
    result |= measure(query, tokens=options.tokens, depths=options.depths, rounds=options.rounds)
    print(f"{result['what']}, {options.threads} thread(s); {TIMER}\n{format_result(result)}")
    write_json(options.output, result)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
