import pytest

from maskrcnn_benchmark.config import UnknownKeyError
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.utils.registry import Registry, UnknownNameError


def test_decorator_and_call_register_the_object_itself():
    registry = Registry()

    @registry.register("first")
    def build(cfg):
        return cfg

    assert registry.register("second", build) is build
    assert registry["first"] is build and build(3) == 3
    assert sorted(registry) == ["first", "second"]


def test_an_unknown_name_lists_what_there_is():
    registry = Registry()
    registry.register("R-50-FPN", int)
    registry.register("HRNET-HR", int)
    with pytest.raises(KeyError) as caught:
        registry["R-50-FNP"]
    assert str(caught.value).startswith(
        "'R-50-FNP' is not registered; registered: HRNET-HR, R-50-FPN. Did you mean 'R-50"
    )
    assert "R-50-FNP" not in registry
    assert registry.get("R-50-FNP") is None


def test_a_taken_name_is_refused_but_registering_twice_is_harmless():
    registry = Registry()
    registry.register("a", int)
    registry.register("a", int)
    with pytest.raises(ValueError, match="'a' is already registered for <class 'int'>"):
        registry.register("a", float)


def test_unknown_names_of_configs_catalogs_and_registries_read_as_plain_text():
    for error in (UnknownNameError("no dataset 'x'"), UnknownKeyError("no dataset 'x'")):
        assert isinstance(error, KeyError) and str(error) == "no dataset 'x'"
    assert str(UnknownNameError()) == ""
    with pytest.raises(UnknownNameError):
        DatasetCatalog.get("nowhere")
