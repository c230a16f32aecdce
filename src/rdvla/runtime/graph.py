"""Opens an ONNX graph with onnxruntime, and runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import ConfigError, RDVLAError, missing_extra

Array = NDArray[Any]


class Graph:
    """An ONNX graph that runs on the CPU.

    Args:
        path: the file.
        threads: number of threads that share an operator; onnxruntime's choice if not given.

    Raises:
        RDVLAError: onnxruntime is not installed or cannot open the graph.
        ConfigError: there is no such number of threads.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise missing_extra("onnxruntime", "runtime") from None
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self._path, self._threads = path, threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors only: its warnings are about its own optimisations
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own errors have no base class but Exception
            raise RDVLAError(
                f"{path} cannot be opened by onnxruntime {onnxruntime.__version__}: {error}"
            ) from error
        self.inputs: tuple[str, ...] = tuple(value.name for value in self._session.get_inputs())
        self.shapes: dict[str, list[Any]] = {value.name: value.shape for value in self._session.get_inputs()}
        self.outputs: tuple[str, ...] = tuple(value.name for value in self._session.get_outputs())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the file's name: onnxruntime's sessions stay in their process."""
        return _reopen, (self._path.resolve(), self._threads)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for the inputs by name."""
        values = self._session.run(None, {name: np.ascontiguousarray(value) for name, value in feeds.items()})
        return dict(zip(self.outputs, values, strict=True))


def _reopen(path: Path, threads: int | None) -> Graph:
    return Graph(path, threads=threads)
