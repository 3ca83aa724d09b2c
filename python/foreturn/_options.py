"""The settings of a new engine, as the library reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from . import _toml
from ._callbacks import ChatModel, ChatModelLike, Host, Metric, MetricLike, chat_model_struct, metric_struct
from ._errors import InvalidArgument
from ._native import Arguments

Path: TypeAlias = str | os.PathLike[str]
Metrics: TypeAlias = Iterable[MetricLike] | Mapping[str, MetricLike]
"""Metrics with names of their own, or by name."""


def put_config(
    arguments: Arguments,
    options: Any,
    config: Path | Mapping[str, Any] | None,
    base_folder: Path | None,
) -> None:
    if isinstance(config, Mapping):
        options.config_toml = arguments.text(_toml.dumps(config), "config")
    elif config is not None:
        options.config_path = arguments.text(os.fspath(config), "config")
    if base_folder is not None:
        if not isinstance(config, Mapping):
            raise InvalidArgument("base_folder is for a configuration that is a dict: paths in a file are relative to it")
        options.base_folder = arguments.text(os.fspath(base_folder), "base_folder")


def put_hosts(
    arguments: Arguments, options: Any, metrics: Metrics, chat_models: Mapping[str, ChatModelLike]
) -> list[Host]:
    hosts: list[Host] = []
    metric_structs: list[Any] = []
    model_structs: list[Any] = []
    for metric in _metrics(metrics):
        hosts.append(Host(metric.name, metric))
        metric_structs.append(metric_struct(arguments, hosts[-1], metric))
    for name, replies in chat_models.items():
        model = replies if isinstance(replies, ChatModel) else ChatModel(replies)
        hosts.append(Host(name, model))
        model_structs.append(chat_model_struct(arguments, hosts[-1], model))
    options.metrics, options.metric_count = arguments.array("foreturn_metric", metric_structs), len(metric_structs)
    options.chat_models = arguments.array("foreturn_chat_model", model_structs)
    options.chat_model_count = len(model_structs)
    return hosts


def _metrics(given: Metrics) -> list[Metric]:
    if isinstance(given, Mapping):
        return [_renamed(metric, name) for name, metric in given.items()]
    return [metric if isinstance(metric, Metric) else Metric(score=metric) for metric in given]


def _renamed(metric: MetricLike, name: str) -> Metric:
    return Metric(name, metric.score, metric.weight) if isinstance(metric, Metric) else Metric(name, metric)


def put_models(arguments: Arguments, options: Any, models: Mapping[str, Path]) -> None:
    made = [
        arguments.struct(
            "foreturn_model_options",
            name=arguments.text(name, "a model's name"),
            path=arguments.text(os.fspath(path), f"the path of model `{name}`"),
        )
        for name, path in models.items()
    ]
    options.models, options.model_count = arguments.array("foreturn_model_options", made), len(made)
