"""Ray Train's process group of torch, without torch in the controller of a run of one worker.

Ray Train starts its controller before it starts a worker, so what the controller imports delays
every run, and torch is about half of that. Where it joins several workers, it imports torch then.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig

__all__ = ["ProcessGroupConfig"]


class _ProcessGroup(Backend):  # type: ignore[misc]
    """Hands the work to Ray Train's own backend where there is any: one worker needs no group."""

    share_cuda_visible_devices = True  # as Ray Train's own has it

    def on_start(self, worker_group: Any, backend_config: "ProcessGroupConfig") -> None:
        """Join the workers, if there are several."""
        if len(worker_group) > 1:
            config = backend_config.of_torch()
            config.backend_cls().on_start(worker_group, config)

    def on_shutdown(self, worker_group: Any, backend_config: "ProcessGroupConfig") -> None:
        """Part them again."""
        if len(worker_group) > 1:
            config = backend_config.of_torch()
            config.backend_cls().on_shutdown(worker_group, config)


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """`torch_config` of a TorchTrainer, which sets `backend` to nccl or gloo."""

    backend: str | None = None

    def of_torch(self) -> Any:
        """Ray Train's own configuration, which imports torch."""
        from ray.train.torch import TorchConfig

        return TorchConfig(backend=self.backend)

    @property
    def framework(self) -> Any:
        """For Ray Train's export of its runs, where that is on."""
        return self.of_torch().framework

    def to_dict(self) -> dict[str, Any]:
        """As `framework`."""
        values: dict[str, Any] = self.of_torch().to_dict()
        return values

    @property
    def backend_cls(self) -> type[Backend]:
        """Who joins the workers."""
        return _ProcessGroup

    @property
    def train_func_context(self) -> Callable[[], AbstractContextManager[None]]:
        """What surrounds the training on a worker; the driver asks for it."""
        context: Callable[[], AbstractContextManager[None]] = self.of_torch().train_func_context
        return context
