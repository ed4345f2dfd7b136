"""Several encoders behind one address: sends each request to the replicas of its model."""

import asyncio
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve.choosing import choose_model
from serve.problems import ProblemError, overloaded
from serve.schemas import ClassifyRequest, ClassifyResponse, ModelCard

__all__ = ["RemoteBackends"]

# A replica is lost or full for about this long.
RETRY_AFTER_S = 1.0


class RemoteBackends:
    """Handles of encoder deployments, by the names of the models they serve."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = dict(handles)
        self._languages: dict[str, tuple[str, str]] = {}

    async def model_of(self, request: ClassifyRequest) -> str:
        """The name of the model that is to answer, or raise ProblemError."""
        if not self._languages:
            await self.models()
        return choose_model(request.model, request.language, self._languages)

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Answer a request, or raise ProblemError."""
        name = await self.model_of(request)
        # Named, so that the replicas choose no other.
        wanted = request.model_copy(update={"model": name})
        answer = await _called(self._handles[name].classify.remote(wanted))
        if isinstance(answer, ProblemError):
            raise answer
        assert isinstance(answer, ClassifyResponse)
        return answer

    async def models(self) -> list[ModelCard]:
        """What is in service; languages of a model never change while it is."""
        distinct = {handle.deployment_name: handle for handle in self._handles.values()}
        calls = [_called(handle.models.remote()) for handle in distinct.values()]
        cards = [card for found in await asyncio.gather(*calls) for card in found]
        self._languages = {
            card.name: (card.source_language, card.target_language) for card in cards
        }
        return sorted(cards, key=lambda card: card.name)


async def _called(response: Any) -> Any:
    """The result of a call by handle; a full or lost replica is a 503."""
    try:
        return await response
    except (BackPressureError, DeploymentUnavailableError, RayActorError):
        raise overloaded(RETRY_AFTER_S) from None
