"""``ragops.lock``: image and model that the reranker was last started from, by digest and fingerprint.

``ragops up`` calls :func:`write`; :func:`changes` names what another ``up`` would start. The file is beside
the configuration, to be committed with it; without a configuration file it is in ragops' data folder.
"""

import json
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ragops.configuration import MAX_BYTES, Stack, home
from ragops.docker.objects import LABEL_FINGERPRINT, LABEL_MODEL, ContainerSpec, ImageState
from ragops.errors import StackError, file_errors, read_text
from ragops.session import replace_file
from ragops.stack.plan import model_change, moved_image

_log = logging.getLogger(__name__)


def lock_file(stack: Stack) -> Path:
    """The lock file of a configuration: beside its file, with the suffix ``.lock``."""
    return stack.file.with_suffix(".lock") if stack.file else home() / f"{stack.reranker.name}.lock.toml"


def changes(stack: Stack, spec: ContainerSpec, image: ImageState | None) -> Iterator[str]:
    """What differs from the lock file: a moved tag, another model; nothing without a file.

    Raises:
        StackError: The file can't be read.
    """
    file = lock_file(stack)
    if not file.exists():
        return
    hint = "delete it: ragops up writes it again"
    message, code = f"can't read {file}", "stack-unreadable"
    text = read_text(StackError, message, file, MAX_BYTES, code=code, hint=hint)
    with file_errors(StackError, message, file, code=code, hint=hint):
        values = tomllib.loads(text)
    locked, now = {key: str(value) for key, value in values.items()}, _values(spec, image)
    if image and locked.get("image") == now["image"] and locked.get("digest") != now["digest"]:
        yield moved_image(spec.image, locked.get("digest", ""), now["digest"])
    labels = {LABEL_MODEL: locked.get("model", ""), LABEL_FINGERPRINT: locked.get("fingerprint", "")}
    if change := model_change(labels, dict(spec.labels)):
        yield change


def write(stack: Stack, spec: ContainerSpec, image: ImageState) -> None:
    """Write the lock file if its content changes; where it is not writable, a warning is logged."""
    file = lock_file(stack)
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in _values(spec, image).items()]
    text = "# Written by ragops up: what the reranker was started from. Commit it with the configuration.\n"
    text += "".join(lines)
    try:
        if file.exists() and file.read_text(encoding="utf-8", errors="replace") == text:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode())
    except OSError as error:
        _log.warning("%s is not written: %s", file, error)


def _values(spec: ContainerSpec, image: ImageState | None) -> dict[str, str]:
    labels = dict(spec.labels)
    digest = image.digests[0].partition("@")[2] if image and image.digests else image.id if image else ""
    model, fingerprint = labels.get(LABEL_MODEL, ""), labels.get(LABEL_FINGERPRINT, "")
    return {"image": spec.image, "digest": digest, "model": model, "fingerprint": fingerprint}
