"""Names in published merged weights and ours: what is mapped, and what is left out and why.

Published names are those of OpenVLA's Hugging Face layout: timm's for both image encoders, Qwen2's for the
language model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from rdvla.backbone import PrismaticConfig
from rdvla.errors import RDVLAError

EMBEDDINGS = "language_model.model.embed_tokens.weight"
VOCABULARY = "language_model.lm_head.weight"
_OURS = "backbone.published."
_SHOWN = 12  # names in an error


@dataclass(frozen=True)
class NameReport:
    """Every tensor of both sides: mapped, left out, missing or unexpected."""

    mapped: dict[str, str] = field(default_factory=dict)  # ours -> published
    left_out: dict[str, str] = field(default_factory=dict)  # published -> why
    missing: tuple[str, ...] = ()  # published names that were needed
    unexpected: tuple[str, ...] = ()  # published names without a counterpart

    def check(self, source: str) -> None:
        """Raise `RDVLAError` with the names if a tensor is missing or unexpected."""
        problems = [
            f"{len(names)} tensors {what}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
            for what, names in (("are missing", self.missing), ("are unexpected", self.unexpected))
            if names
        ]
        if problems:
            raise RDVLAError(f"{source}: {'; '.join(problems)}. Nothing was written.")


def match_names(published: Set[str], *, wanted: Set[str], config: PrismaticConfig, tied: bool) -> NameReport:
    """Find the published tensor for each of ours.

    Args:
        published: names in the merged weights.
        wanted: our names of the backbone's parameters.
        config: of the backbone.
        tied: whether embeddings and vocabulary share a matrix, which a file may store under either name.
    """
    mapped, missing = {}, []
    for ours in sorted(wanted):
        candidates = list(_published_names(ours, tied=tied))
        found = [name for name in candidates if name in published]
        if found:
            mapped[ours] = found[0]
        else:
            missing.append(candidates[0])
    left_out, unexpected = {}, []
    rules = list(_left_out(config))
    for name in sorted(published - set(mapped.values())):
        why = next((reason for pattern, reason in rules if re.fullmatch(pattern, name)), None)
        if why is None:
            unexpected.append(name)
        else:
            left_out[name] = why
    return NameReport(mapped, left_out, tuple(missing), tuple(unexpected))


def _published_names(ours: str, *, tied: bool) -> Iterator[str]:
    """Yield the possible published names of our parameter, the usual name first."""
    if ours == "backbone.latents":
        yield "action_queries.weight"
        return
    name = ours.removeprefix(_OURS)
    if name.startswith("language_model."):
        name = name.replace("language_model.", "language_model.model.", 1)
    if re.search(r"\.ls[12]\.gamma$", name):
        yield name.removesuffix("gamma") + "scale_factor"  # renamed, as transformers once rewrote "gamma"
    yield name
    if name == EMBEDDINGS and tied:
        yield VOCABULARY


def _left_out(config: PrismaticConfig) -> Iterator[tuple[str, str]]:
    """Yield patterns of names to leave out, with the reason."""
    yield re.escape(VOCABULARY), "no vocabulary logits are computed"
    for encoder, sizes in (("featurizer", config.dinov2), ("fused_featurizer", config.siglip)):
        start = rf"vision_backbone\.{encoder}\."
        after = "lies after the second-to-last block, whose output is read"
        yield start + rf"blocks\.{sizes.depth - 1}\..+", after
        yield start + r"(norm|fc_norm|attn_pool)\..+", after
    last = max(config.levels)
    for layer in range(last, config.language.layers):
        yield rf"language_model\.model\.layers\.{layer}\..+", "lies above the last level that the head reads"
    if last < config.language.layers:
        yield r"language_model\.model\.norm\.weight", "lies above the last level that the head reads"
    yield r"language_model\.model\..*rotary_emb\.inv_freq", "is computed from the configuration"
