"""Message definitions and type hashes that a bag must carry, read from the installed packages."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from functools import cache
from pathlib import Path

from so101_driver.errors import UserError

_PRIMITIVES = {"bool", "byte", "char", "float32", "float64", "string", "wstring"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_FIELD_TYPE = re.compile(r"^\s*([A-Za-z][A-Za-z0-9_/]*)")
_SEPARATOR = "=" * 80


@cache
def _share_folder(package: str) -> Path:
    """Return the folder that holds the package's ``msg`` folder."""
    candidates = [
        Path(prefix) / "share" / package
        for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
        if prefix
    ]
    # Packages built into a virtual environment are found from their Python half, without sourcing.
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:
        candidates += [parent / "share" / package for parent in Path(spec.origin).parents]
    for folder in candidates:
        if (folder / "msg").is_dir():
            return folder
    raise UserError(
        f"the definitions of package '{package}' are not installed: source the workspace "
        f"that built it."
    )


def _definition_file(type_name: str, suffix: str) -> Path:
    package, _, name = type_name.split("/")
    return _share_folder(package) / "msg" / f"{name}{suffix}"


def _own_text(type_name: str) -> str:
    path = _definition_file(type_name, ".msg")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the definition of message '{type_name}' cannot be read: {error}"
        ) from None


def _field_types(type_name: str, text: str) -> list[str]:
    """Return the full names of the message types that ``text`` uses, in order."""
    package = type_name.split("/")[0]
    found: list[str] = []
    for line in text.splitlines():
        match = _FIELD_TYPE.match(line.split("#", 1)[0])
        if match is None or match[1] in _PRIMITIVES:
            continue
        parts = match[1].split("/")
        full = f"{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}"
        if full not in found:
            found.append(full)
    return found


@cache
def message_definition(type_name: str) -> str:
    """Return the ``ros2msg`` text of a type followed by those of every type it uses.

    Args:
        type_name: Full name, e.g. ``sensor_msgs/msg/JointState``.

    Raises:
        UserError: The package or the message is not installed.
    """
    text = _own_text(type_name)
    sections = [text]
    seen = {type_name}
    queue = _field_types(type_name, text)
    while queue:
        name = queue.pop(0)
        if name in seen:
            continue
        seen.add(name)
        text = _own_text(name)
        sections.append(f"{_SEPARATOR}\nMSG: {name.replace('/msg/', '/')}\n{text}")
        queue += _field_types(name, text)
    return "\n".join(section.rstrip("\n") for section in sections) + "\n"


@cache
def type_hash(type_name: str) -> str:
    """Return the RIHS01 hash of a type as its package declares it; empty where it does not."""
    path = _definition_file(type_name, ".json")
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))["type_hashes"]
    except (OSError, ValueError, KeyError):
        return ""
    for entry in declared:
        if entry["type_name"] == type_name:
            return str(entry["hash_string"])
    return ""
