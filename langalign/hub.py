"""One quick question to the Hugging Face hub before a load that would retry for half a minute."""

from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever it is built on

from langalign.errors import LangAlignError

__all__ = ["ask_hub"]

TIMEOUT_S = 10.0


def ask_hub(
    kind: Literal["model", "data set"], name: str, error: type[LangAlignError], key: str = ""
) -> None:
    """Raise `error` unless the hub knows `name`; with HF_HUB_OFFLINE=1, leave it to the cache.

    `key` is the configuration key that gave the name, for the message.
    """
    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    shown = f"{key}={name!r}" if key else repr(name)
    try:
        ask(name, timeout=TIMEOUT_S)
    except OfflineModeIsEnabled:
        return
    except HfHubHTTPError as problem:
        raise error(
            f"{shown} is neither a local path nor a hub {kind} that may be read "
            f"({type(problem).__name__}); check the path or name (a private one needs HF_TOKEN)"
        ) from problem
    except httpx.HTTPError as problem:
        raise error(
            f"{shown} is no local path, and the hub is out of reach ({problem}); give an existing "
            "path, mend the network, or set HF_HUB_OFFLINE=1 to use a copy in the cache"
        ) from problem
    except ValueError as problem:
        reason = str(problem).split(":", 1)[0]
        raise error(
            f"{shown} is neither an existing local path nor a hub {kind} ({reason}); "
            "check the path, or write owner/name"
        ) from problem
