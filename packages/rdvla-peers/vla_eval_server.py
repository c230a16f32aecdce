# /// script
# requires-python = ">=3.10"
# dependencies = ["vla-eval>=0.8,<0.9", "rdvla-peers", "rdvla-client"]
#
# [tool.uv.sources]
# rdvla-peers = { path = "." }
# rdvla-client = { path = "../rdvla-client" }
# ///
"""The model server script that `vla-eval serve --config vla_eval.yaml` runs with uv."""

from vla_eval.model_servers.serve import run_server

from rdvla_peers.model_server import RDVLAModelServer

if __name__ == "__main__":
    run_server(RDVLAModelServer)
