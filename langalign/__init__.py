"""LangAlign: cross-lingual transfer by aligning sentence embeddings (arXiv 2503.18603)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langalign.model import TextModel

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(uri: str, *, device: str | None = None) -> "TextModel":
    """Load a published model: a folder or s3:// URI of `models/NAME` or `models/NAME/VERSION`.

    Every file is checked against the manifest. `device` defaults to a GPU if there is one.

    Raises:
        ArtifactError: there is no such model or version.
        IntegrityError: a file is truncated or altered.
    """
    # Imported here so that light users of the package (tasks that tokenise) do not load torch.
    from langalign.model import load_model

    return load_model(uri, device=device)
