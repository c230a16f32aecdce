"""Asks a policy server: one query, one reply."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from rdvla_client.address import websocket_address
from rdvla_client.errors import NonFiniteError, UnsupportedError
from rdvla_client.transport import Patience, Transport
from rdvla_client.wire import Limits, pack


class PolicyClient:
    """A connection to a policy server that speaks openpi's protocol, such as `rdvla serve`.

    It connects at the first use. If the connection is lost, the query at hand fails with
    `ConnectionLostError`: it may have been answered, so it is never sent twice. The next query connects anew.
    One query runs at a time; other threads wait.

    Args:
        address: ``ws://host:port/policy``, ``wss://...`` or ``host:port``; the path chooses a policy.
        port: the port, if the address has none.
        api_key: sent as ``Authorization: Api-Key KEY``; over ``wss://``, or within a network that you trust.
        tls: for servers with a certificate of your own: `ssl.create_default_context(cafile=...)`.
        patience: how long to wait for connections and replies.
        limits: the most that a reply may hold.

    Raises:
        ValueError: the address cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        port: int | None = None,
        api_key: str | None = None,
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self._transport = Transport(
            websocket_address(address, port),
            api_key=api_key,
            tls=tls,
            patience=self.patience,
            limits=limits or Limits(),
        )
        self._turn = threading.RLock()  # one query at a time
        self._episode, self._begun = 0, 0  # resets asked for, and how many of them the server knows of
        self._execution: str | None = (
            None  # a server keeps it for its connection; this client for all of them
        )
        self._told: tuple[int, str | None] = (0, None)  # connection, and the rule that its server keeps

    @property
    def address(self) -> str:
        """The server's full address."""
        return self._transport.address

    @property
    def connected(self) -> bool:
        """Whether a connection is open, as far as is known here."""
        return self._transport.connected

    @property
    def connections(self) -> int:
        """How many connections were opened so far."""
        return self._transport.connections

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server says about itself and its policy; connects if necessary."""
        self.connect()
        return self._transport.metadata

    @property
    def options(self) -> frozenset[str]:
        """Names of the options that the server understands; none, unless it is one of rdvla."""
        names = self.metadata.get("options", ())
        return frozenset(map(str, names)) if isinstance(names, list | tuple) else frozenset()

    def connect(self) -> None:
        """Connect, if there is no connection; try for `patience.reconnect_s` seconds, with growing delays.

        Raises:
            ConnectionLostError: nobody answers.
            RefusedError: the server does not let us in.
            WireError: whoever answers speaks another protocol.
            ClientError: the client is closed.
        """
        with self._turn:
            self._transport.connect()

    def infer(
        self,
        observation: Mapping[str, Any],
        *,
        max_depth: int | None = None,
        deadline_ms: float | None = None,
        stop: str | None = None,
        execution: str | None = None,
        seed: int | None = None,
        executed: int | None = None,
    ) -> dict[str, Any]:
        """Return the server's reply: `actions` (K, A), timings, and what it says about the query.

        The options are rdvla's; all but `execution` hold for this query only.

        Args:
            observation: keys as the policy's layout says: images (H, W, 3) uint8, a state (S,), a prompt.
            max_depth: iterations at most.
            deadline_ms: milliseconds after its arrival by which the server stops to iterate.
            stop: a stop rule, such as ``kl:0.001``.
            execution: an execution rule, such as ``binary:8,4,8``; kept, once answered, until another is.
            seed: draws the noise that the iterations start from.
            executed: actions of the last chunk that were executed; by default its `execute_steps`.

        Raises:
            UnsupportedError: the server does not know an option.
            WireError: the observation cannot be sent, or the reply cannot be read.
            NonFiniteError: an action of the reply is NaN or infinite.
            ServerError: the server cannot answer; its subclass `BusyError` if it has too much to do.
            ReplyTimeoutError: no reply in time.
            ConnectionLostError: no connection, or it broke.
            RefusedError: the server does not let us in.
        """
        given: dict[str, Any] = {
            "max_depth": max_depth,
            "deadline_ms": deadline_ms,
            "stop": stop,
            "execution": execution,
            "seed": seed,
            "executed": executed,
        }
        options = {name: value for name, value in given.items() if value is not None}
        if "rdvla" in observation:
            raise UnsupportedError("give rdvla's options as arguments, not as the observation's key 'rdvla'")
        with self._turn:
            self.connect()
            self._check(options)
            rule = options.pop("execution", self._execution)
            telling = (self.connections, rule)
            if rule is not None and self._told != telling:
                options["execution"] = rule
            episode = self._episode  # another thread may begin one while this query is under way
            if episode != self._begun and "reset" in self.options:
                options["reset"] = True
            message = pack({**observation, "rdvla": options} if options else dict(observation))
            reply = self._transport.exchange(message)
            # Only now: a rule that the server refused is not sent again, and would fail every later query.
            self._execution, self._told, self._begun = rule, telling, episode
            self._check_actions(reply)
            return reply

    def reset(self) -> None:
        """Begin an episode: the next query tells the server to forget the last one.

        A server that has no such option, such as openpi's own, keeps nothing between queries.
        """
        self._episode += 1

    def ping_ms(self) -> float:
        """Return the milliseconds to the server and back, without a policy in between.

        Raises:
            ReplyTimeoutError: no answer in time.
            ConnectionLostError, RefusedError: no connection.
        """
        with self._turn:
            return self._transport.ping_ms()

    def close(self) -> None:
        """Close the connection for good; a query that another thread waits for fails."""
        self._transport.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - self.options)
        if unknown:
            known = ", ".join(sorted(self.options)) or "none, so it is not rdvla's"
            raise UnsupportedError(
                f"{self.address} does not understand {', '.join(unknown)}; it knows these options: {known}"
            )

    def _check_actions(self, reply: dict[str, Any]) -> None:
        try:
            actions = np.asarray(reply.get("actions", ()), dtype=np.float64)
        except (TypeError, ValueError):
            return  # no numbers at all, so nobody takes them for actions
        bad = np.argwhere(~np.isfinite(actions))
        if len(bad):
            where = bad[0].tolist()
            raise NonFiniteError(
                f"{self.address} sent actions that are not finite, such as "
                f"{actions[tuple(where)]} at {where}; none of them may be executed",
                reply,
            )
