"""The end of a run: the model folder and its card, the summary and the plots."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.embed import ENCODER_FOLDER, EncoderRule
from cluster.prepare import RunData
from cluster.units import ALIGNER_FILE, HEAD_FILE
from cluster.work import Unit
from langalign import artifacts, model, report
from langalign.card import model_card
from langalign.config import PipelineConfig
from langalign.jsontext import dump_json
from langalign.manifest import ManifestDraft
from langalign.outputs import StepOutput
from langalign.storage import Storage
from langalign.versions import recorded_versions

__all__ = ["publish_model", "write_reports"]

LIBRARIES = ("torch", "transformers", "ray")


def publish_model(
    config: PipelineConfig,
    storage: Storage,
    *,
    data: RunData,
    rule: EncoderRule,
    head: Unit,
    steps: dict[str, str],
    results: Sequence[dict[str, Any]],
) -> dict[str, str]:
    """Publish encoder, aligner and head as a new version; returns {name, version, uri}.

    `head` is the finished unit of step 3; `rule` the encoder it reads embeddings of; `steps`
    maps step names to the storage prefixes of their outputs, the model's parents.

    Raises:
        ArtifactError: the version exists with other content.
        IntegrityError: a step output is altered.
    """
    name = config.model or config.name
    aligner = head.output(storage).info()["aligner"]
    draft = ManifestDraft(
        seed=config.seed,
        task={
            "name": data.task.name,
            "text_columns": list(data.task.text_columns),
            "label_column": data.task.label_column,
            "metric": data.task.metric,
        },
        labels=list(data.task.labels),
        source_language=data.source_language,
        target_language=data.target_language,
        direction=config.aligner.direction,
        aligner=aligner,
        encoder={**rule.options(), "weights": rule.weights},
        metrics=list(results),
        parents=steps,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_model(folder, config, data, rule, head.output(storage))
        card = _card(config, name, data, aligner, steps, results)
        (folder / "README.md").write_text(card, encoding="utf-8")
        published = artifacts.publish(storage, folder, draft, name=name)
    return asdict(published)


def write_reports(
    storage: Storage,
    run: str,
    summary: dict[str, Any],
    histories: dict[str, list[dict[str, Any]]],
) -> list[str]:
    """Write summary.json and the plots under `runs/<run>/`; returns their places."""
    keys = [f"runs/{run}/summary.json"]
    storage.write_bytes(keys[0], dump_json(summary, indent=2).encode())
    with tempfile.TemporaryDirectory() as folder:
        plots = (
            report.plot_curves(histories, Path(folder) / "curves.png"),
            report.plot_comparison(summary, Path(folder) / "comparison.png"),
        )
        for path in filter(None, plots):
            keys.append(f"runs/{run}/{path.name}")
            storage.upload(path, keys[-1])
    return [storage.uri(key) for key in keys]


def _write_model(
    folder: Path, config: PipelineConfig, data: RunData, rule: EncoderRule, trained: StepOutput
) -> None:
    """Encoder, aligner and head of a finished step 3 with the config that loads them."""
    files = trained.fetch()
    aligner = trained.info()["aligner"]
    has_encoder = (files / ENCODER_FOLDER).is_dir()
    source = files if has_encoder else StepOutput(trained.storage, rule.prefix).fetch()
    shutil.copytree(source / ENCODER_FOLDER, folder / ENCODER_FOLDER)
    shutil.copy(files / HEAD_FILE, folder)
    if aligner["kind"] != "none":
        shutil.copy(files / ALIGNER_FILE, folder)
    model.write_config(
        folder,
        labels=data.task.labels,
        source_language=data.source_language,
        target_language=data.target_language,
        direction=config.aligner.direction,
        aligner=aligner,
        encoder=rule.options(),
        dropout=config.head.dropout,
        is_pair_task=len(data.task.text_columns) == 2,
    )


def _card(
    config: PipelineConfig,
    name: str,
    data: RunData,
    aligner: dict[str, Any],
    steps: dict[str, str],
    results: Sequence[dict[str, Any]],
) -> str:
    sources = {"train": config.data.train, "parallel": config.data.parallel}
    sources |= {"test": config.data.test, "native": config.data.native or ""}
    rows = {
        role: {
            "rows": prepared.summary.rows,
            "source": sources[role],
            "digest": prepared.summary.digest[:12],
        }
        for role, prepared in data.roles.items()
    }
    made = {"finetune": "head"}
    return model_card(
        name=name,
        task=data.task.name,
        labels=data.task.labels,
        text_columns=data.task.text_columns,
        source_language=data.source_language,
        target_language=data.target_language,
        direction=config.aligner.direction,
        aligner={k: v for k, v in aligner.items() if v is not None},
        encoder=config.encoder.name,
        pooling=config.encoder.pooling,
        max_length=config.encoder.max_length,
        data=rows,
        results=[row for row in results if row["split"] == "test"],
        steps={
            made.get(step, step): prefix.rsplit("/", 1)[-1][:12]
            for step, prefix in steps.items()
            if made.get(step, step) in ("tune", "align", "head")
        },
        seed=config.seed,
        versions=recorded_versions(LIBRARIES),
        chosen_on="target" if data.has_labelled_pairs else "source",
        adds_residuals=config.head.residuals,
    )
