"""A wrong backend name or a missing module is a user's mistake: one sentence must name the fix."""

from importlib.metadata import EntryPoint

import pytest
from so101_driver.errors import UserError
from wallx_policy.backends import registry
from wallx_policy.backends.base import BackendSettings


def use(monkeypatch, value):
    entry = EntryPoint("mine", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])


def test_our_own_backends_are_registered():
    assert {"expert", "hold", "sine", "wall_oss"} <= set(registry.installed_backends())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"no policy backend 'wal_oss'.*expert"):
        registry.load_backend("wal_oss", BackendSettings())


def test_a_missing_module_names_the_command_that_brings_it(monkeypatch):
    use(monkeypatch, "no_such_module_here:Policy")
    with pytest.raises(UserError, match=r"no_such_module_here.*make ros-env.*make setup"):
        registry.load_backend("mine", BackendSettings())


def test_a_module_missing_only_when_the_backend_loads_is_named_too(monkeypatch):
    def fail(_settings):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(registry, "_imported", lambda entry: fail)
    use(monkeypatch, "anything:Policy")
    with pytest.raises(UserError, match="'torch'"):
        registry.load_backend("mine", BackendSettings())


@pytest.mark.parametrize("value", ["math:no_such_class", "math:sin"])
def test_a_wrong_entry_point_is_named(monkeypatch, value):
    use(monkeypatch, value)
    with pytest.raises(UserError, match=r"mine.*math"):
        registry.load_backend("mine", BackendSettings())


def test_a_working_backend_is_built(monkeypatch):
    backend = registry.load_backend("hold", BackendSettings())
    assert backend.name == "hold"
    assert not backend.needs.images
