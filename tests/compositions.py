"""Compositions of configurations in tests: Hydra reads and merges the same YAML files once per process, not once per test.

Only what the chosen groups determine is kept. Hydra applies values such as `steps=3` to a copy of it, as it does to a new one.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from elongate.cli import conf_directory

_PARSE = OverridesParser.parse_rule
_LOAD = ConfigRepository.load_config
_LIST = config_loader_impl.create_defaults_list
_MERGE = ConfigLoaderImpl._compose_config_from_defaults_list
_CHOICES = defaults_list._create_interpolation_map

_parsed: dict[str, Override] = {}
_loaded: dict[tuple[Any, ...], bytes] = {}  # pickled: reading it takes a fifth of the time of a deep copy
_listed: dict[tuple[Any, ...], DefaultsList] = {}
_merged: dict[tuple[Any, ...], bytes] = {}

_OWN_SOURCES = {f"file://{conf_directory()}", "pkg://hydra.conf", "structured://"}


def keep_compositions() -> None:
    """Makes Hydra keep parsed overrides, loaded files, lists of defaults and merged configurations."""
    ConfigStore.__deepcopy__ = lambda store, _memo: store  # as the commands do
    OverridesParser.parse_rule = _parse
    ConfigRepository.load_config = _load
    config_loader_impl.create_defaults_list = _list
    ConfigLoaderImpl._compose_config_from_defaults_list = _merge
    defaults_list._create_interpolation_map = _choices


def compose_anew() -> None:
    """Undoes `keep_compositions`."""
    OverridesParser.parse_rule = _PARSE
    ConfigRepository.load_config = _LOAD
    config_loader_impl.create_defaults_list = _LIST
    ConfigLoaderImpl._compose_config_from_defaults_list = _MERGE
    defaults_list._create_interpolation_map = _CHOICES


def _parse(parser: OverridesParser, text: str, rule: str) -> Any:
    if rule != "override":
        return _PARSE(parser, text, rule)
    if text not in _parsed:
        _parsed[text] = _PARSE(parser, text, rule)
    return copy.copy(_parsed[text])  # Hydra sets an attribute of it


def _load(repo: ConfigRepository, config_path: str) -> ConfigResult | None:
    if (sources := _own_sources(repo)) is None:
        return _LOAD(repo, config_path)
    key = (sources, config_path)
    if key not in _loaded:
        _loaded[key] = pickle.dumps(_LOAD(repo, config_path))
    return pickle.loads(_loaded[key])


def _list(
    repo: IConfigRepository, config_name: str | None, overrides_list: list[Override], prepend_hydra: bool, skip_missing: bool
) -> DefaultsList:
    if (sources := _own_sources(repo)) is None:
        return _LIST(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    values = Overrides(repo, overrides_list).config_overrides
    groups = tuple(override.input_line for override in overrides_list if not any(override is value for value in values))
    key = (sources, config_name, groups, prepend_hydra, skip_missing)
    if key not in _listed:
        _listed[key] = _LIST(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    kept = copy.copy(_listed[key])
    kept.config_overrides = values
    return kept


def _merge(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    if (sources := _own_sources(repo)) is None:
        return _MERGE(loader, defaults, repo)
    key = (sources, *((each.config_path, each.parent, each.package, each.is_self, each.primary) for each in defaults))
    if key not in _merged:
        _merged[key] = pickle.dumps(_MERGE(loader, defaults, repo))
    return pickle.loads(_merged[key])


def _choices(overrides: Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig:
    """The choices until now, for words such as `${context}` in a list of defaults. None of ours has such a word."""
    if any(default.is_interpolation() for default in defaults):
        return _CHOICES(overrides, defaults, self_added)
    return OmegaConf.create()


def _own_sources(repo: IConfigRepository) -> tuple[tuple[str, str], ...] | None:
    """The folders of YAML files. None if one is neither this repository's nor Hydra's, because tests change theirs."""
    sources = tuple((source.provider, source.full_path()) for source in repo.get_sources())
    return sources if _OWN_SOURCES.issuperset(path for _, path in sources) else None
