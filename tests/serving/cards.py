"""A model in service as `/v1/models` shows it, for clients that ask no service."""

from typing import Any

CARD: dict[str, Any] = {
    "name": "m",
    "version": "v-1",
    "source_language": "en",
    "target_language": "xc",
    "labels": ["even", "odd"],
    "inputs": "text",
    "max_tokens": 8,
    "encoder": "e",
    "precision": "fp32",
    "published_at": "2026-01-01T00:00:00Z",
    "metrics": [],
}
