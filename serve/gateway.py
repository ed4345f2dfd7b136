"""Several encoders behind one address: sends each request to the replicas of its model."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.choosing import choose_model
from serve.problems import ProblemError, in_time, overloaded, unavailable
from serve.schemas import ClassifyRequest, ClassifyResponse, ModelCard

__all__ = ["RemoteBackends"]

# An encoder that does not say within this time what it serves counts as away; a probe of Kubernetes
# gives up after 1 s.
CARDS_LIMIT_S = 0.5


class RemoteBackends:
    """Handles of encoder deployments, by the names of the models they serve."""

    def __init__(
        self,
        handles: Mapping[str, Any],
        languages: Mapping[str, tuple[str, str]],
        request_s: float,
    ) -> None:
        """`languages` are source and target of each model, which never change while it serves.

        An answer may take `request_s`, an encoder that has to come back first included.
        """
        self._handles = dict(handles)
        self._encoders = {handle.deployment_name: handle for handle in handles.values()}
        self._languages = dict(languages)
        self._request_s = request_s
        self._cards: dict[str, list[ModelCard]] = {}

    async def model_of(self, request: ClassifyRequest) -> str:
        """The name of the model that is to answer, or raise ProblemError."""
        return choose_model(request.model, request.language, self._languages)

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Answer a request, or raise ProblemError."""
        name = await self.model_of(request)
        # Named, so that the replicas choose no other.
        wanted = request.model_copy(update={"model": name})
        async with in_time(self._request_s):
            answer = await _called(self._handles[name].classify.remote(wanted))
        if isinstance(answer, ProblemError):
            raise answer
        assert isinstance(answer, ClassifyResponse)
        return answer

    async def models(self) -> list[ModelCard]:
        """What is in service; of an encoder that is away, what it said last.

        Raises:
            ProblemError: no encoder answers (503).
        """
        if not any(await asyncio.gather(*map(self._look, self._encoders))):
            raise unavailable("no encoder answers now; ask again soon")
        cards = [card for found in self._cards.values() for card in found]
        return sorted(cards, key=lambda card: card.name)

    async def _look(self, encoder: str) -> bool:
        """Whether an encoder answers; its cards are kept."""
        try:
            async with asyncio.timeout(CARDS_LIMIT_S):
                self._cards[encoder] = await _called(self._encoders[encoder].models.remote())
        except (TimeoutError, ProblemError):
            return False
        return True


async def _called(response: Any) -> Any:
    """The result of a call by handle; a full or lost replica is a 503."""
    try:
        return await response
    except (BackPressureError, DeploymentUnavailableError, RayActorError):
        raise overloaded() from None
    except grpc.aio.AioRpcError as error:
        # Serve's throughput mode: a replica that shuts down cancels what it has not answered.
        if error.code() is not grpc.StatusCode.CANCELLED:
            raise
        raise overloaded() from None
