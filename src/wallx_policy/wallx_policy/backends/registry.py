"""Finds backends among the installed entry points, so that other packages can bring their own."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from so101_driver.errors import UserError

from wallx_policy.backends.base import Backend, BackendSettings

GROUP = "wallx_policy.backends"


def installed_backends() -> dict[str, EntryPoint]:
    """Return every registered backend by name; nothing is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def load_backend(name: str, settings: BackendSettings) -> Backend:
    """Import and build a backend.

    Raises:
        UserError: for an unknown name, an import that fails, or what the backend finds wrong.
    """
    known = installed_backends()
    if name not in known:
        names = ", ".join(known) or "none"
        raise UserError(f"there is no policy backend {name!r}; choose backend from: {names}")
    try:
        return _imported(known[name])(settings)
    except ModuleNotFoundError as error:
        raise UserError(
            f"backend {name!r} needs the Python module {error.name!r}, which is not installed: "
            "run `make ros-env` on a ROS installation, `make setup` otherwise"
        ) from error


def _imported(entry: EntryPoint) -> type[Backend]:
    try:
        backend_class = entry.load()
    except ModuleNotFoundError:
        raise
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"backend {entry.name!r} ({entry.value}) cannot be imported ({error}): "
            "reinstall the package that provides it"
        ) from error
    if not (isinstance(backend_class, type) and issubclass(backend_class, Backend)):
        raise UserError(
            f"backend {entry.name!r} ({entry.value}) is not a subclass of "
            "wallx_policy.backends.base.Backend: correct its entry point"
        )
    return backend_class
