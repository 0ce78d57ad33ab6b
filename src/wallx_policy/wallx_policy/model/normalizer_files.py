"""Statistics that wall-oss-0.5 keeps in pickled files beside its tensors.

They are read with ``weights_only=True``, which runs no code, and written once as safetensors beside
them; a folder that must not be written to is converted in memory at every load.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.model.weights import Normalizers

CONVERTED = "normalizers.safetensors"
_FILES = {"action": "normalizer_action.pth", "propri": "normalizer_propri.pth"}
_KINDS = ("min", "delta")


def read_normalizers(folder: Path) -> Normalizers:
    """Return the statistics of ``normalizer_action.pth`` and ``normalizer_propri.pth``.

    Without these files, what was once converted from them is read; without either, none is there.

    Raises:
        UserError: naming the file that is missing, damaged, or holds anything but numbers.
    """
    paths = {feature: folder / name for feature, name in _FILES.items()}
    present = [path for path in paths.values() if path.is_file()]
    converted = folder / CONVERTED
    if not present:
        return _read_converted(converted) if converted.is_file() else {}
    if len(present) < len(paths):
        missing = next(path for path in paths.values() if path not in present)
        raise UserError(f"{missing} is missing, {present[0].name} lies there: copy both")
    marks = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in present}
    if converted.is_file() and _marks(converted) == marks:
        return _read_converted(converted)
    tensors = {
        f"{feature}.{key}": tensor
        for feature, path in paths.items()
        for key, tensor in _read_pickle(path).items()
    }
    _write(converted, tensors, marks)
    return _arranged(tensors)


def merged(own: Normalizers, beside: Normalizers, folder: Path) -> Normalizers:
    """Return the statistics of the checkpoint's tensors and of the files beside them.

    Raises:
        UserError: when the two say different things about one data set.
    """
    for name in own.keys() & beside.keys():
        same = own[name].keys() == beside[name].keys() and all(
            torch.equal(own[name][key].float(), beside[name][key].float()) for key in own[name]
        )
        if not same:
            raise UserError(
                f"{folder}: the statistics {name!r} differ between model.safetensors and "
                f"{', '.join(_FILES.values())}: remove the files that are not this checkpoint's"
            )
    return {**own, **beside}


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else "damaged"
        raise UserError(f"{path} is no file of plain tensors, it is not read: {text}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} must hold tensors by name")
    tensors = {}
    for key, value in content.items():
        kind, _, name = str(key).partition(".")
        if kind not in _KINDS or not name or not isinstance(value, Tensor):
            raise UserError(f"{path}: {key!r} is no tensor min.<name> or delta.<name>")
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: {key} is not finite")
        tensors[key] = value.detach().flatten().to(torch.float64).contiguous()
    return tensors


def _write(path: Path, tensors: dict[str, Tensor], marks: dict[str, str]) -> None:
    """Write the conversion whole or not at all; not where the folder is read-only."""
    # The mode counts for root too, whom it does not stop.
    if not path.parent.stat().st_mode & 0o222 or not os.access(path.parent, os.W_OK):
        return
    half_written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, half_written, metadata=marks)
        half_written.replace(path)
    except OSError:
        half_written.unlink(missing_ok=True)


def _marks(path: Path) -> dict[str, str] | None:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata()
    except (OSError, SafetensorError):
        return None


def _read_converted(path: Path) -> Normalizers:
    try:
        with safe_open(path, framework="pt") as file:
            return _arranged({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read, remove it: {error}") from error


def _arranged(tensors: dict[str, Tensor]) -> Normalizers:
    found: Normalizers = {}
    for key, tensor in tensors.items():
        feature, kind, name = key.split(".", 2)
        found.setdefault(name, {})[(feature, kind)] = tensor
    return found
