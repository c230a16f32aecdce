"""Publishes a policy on the hub, with its records and its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelHubMixin
from torch import nn

from rdvla.backbone import Backbone
from rdvla.errors import RDVLAError
from rdvla.files import write_atomically
from rdvla.hashing import fingerprint
from rdvla.policy.card import is_hub_id, write_card
from rdvla.policy.config import PolicyConfig
from rdvla.policy.records import RESULTS, Records, results_summary, without_places
from rdvla.policy.trainable import count_parameters

README = "README.md"


class HubPolicy(ModelHubMixin):
    """Saving and publishing, for a policy class to inherit.

    Attributes:
        records: the files next to the weights (`training.json`, `results.json`), by name.
    """

    config: PolicyConfig
    backbone: Backbone
    records: Records

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:  # noqa: ARG002  # the mixin's
        """Return the card that `save_pretrained` and `push_to_hub` write as README.md.

        Raises:
            RDVLAError: the results among the records are of other weights.
        """
        assert isinstance(self, nn.Module)
        results = self.records.get(RESULTS)
        return write_card(
            self.config,
            parameters=count_parameters(self),
            base_models=self.backbone.base_models(),
            by_name=bool(self.backbone.external_prefixes()),
            records=self.records,
            summary=[] if results is None else results_summary(results, weights=fingerprint(self)),
        )

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write configuration, weights, statistics, records and card; replace those of another policy.

        Args:
            save_directory: a folder.
            options: `push_to_hub`, `repo_id` and more that the mixin takes.

        Raises:
            RDVLAError: the results among the records are of other weights; nothing is written then.
        """
        card = str(self.generate_model_card())
        # Written first: the mixin keeps a card that it finds, and would otherwise make it again.
        with write_atomically(Path(save_directory) / README) as temporary:
            temporary.write_text(card, encoding="utf-8")
        address: str | None = super().save_pretrained(save_directory, **options)
        return address

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish the policy with its records and a card; return the address of the commit.

        Paths in the records are cut to their last component.

        Args:
            repo_id: ``user/name``; it is made if missing, and so is the branch.
            options: `private`, `token`, `branch`, `create_pr`, `commit_message` of the hub's client.

        Raises:
            RDVLAError: it names a model in a local folder, its results are of other weights, it should be
                private but the repository is public, or the hub cannot be reached or refuses.
        """
        local = [name for name in self.backbone.base_models() if not is_hub_id(name)]
        if local and self.backbone.external_prefixes():
            raise RDVLAError(
                f"the policy needs {local[0]}, which others cannot load by this name: publish that "
                "model, and name it by its hub id in the policy's config.json"
            )
        self.generate_model_card()  # may refuse, and does so before there is anything on the hub
        records = self.records
        self.records = without_places(records)
        try:
            _make_repository(repo_id, options)
            address: str = super().push_to_hub(repo_id, **options)
        except RDVLAError:
            raise
        except Exception as error:  # the client also raises its network library's errors
            raise RDVLAError(f"{repo_id} was not published: {error}") from error
        finally:
            self.records = records
        return address


def _make_repository(repo_id: str, options: Mapping[str, Any]) -> None:
    """Make the repository and the branch if they are missing; the mixin makes no branch."""
    hub = HfApi(token=options.get("token"))
    hub.create_repo(repo_id, private=options.get("private"), exist_ok=True)
    if options.get("private") and not hub.model_info(repo_id).private:
        raise RDVLAError(
            f"{repo_id} is there already and public, which publishing does not change: "
            "make it private on the hub, or name another"
        )
    if options.get("branch"):
        hub.create_branch(repo_id, branch=options["branch"], exist_ok=True)
