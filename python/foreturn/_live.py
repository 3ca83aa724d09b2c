"""Models that another library holds in memory: what wraps them, and their adapters. No framework is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, cast

from ._errors import InvalidArgument, Unsupported

_WRAPPERS = ("module", "_orig_mod")


def is_live(model: Any) -> bool:
    """Whether this is a model in memory, such as a `torch.nn.Module`."""
    return hasattr(model, "state_dict") and hasattr(model, "named_modules")


def unwrapped(model: Any) -> Any:
    """The model inside what data parallelism and `torch.compile` put around it."""
    while inner := next((name for name in _WRAPPERS if hasattr(model, name)), None):
        model = getattr(model, inner)
    return model


def spread_by(model: Any) -> Literal["ZeRO-3", "FSDP1", "FSDP2"] | None:
    """What spreads the model's parameters over processes, if anything does."""
    parameters = list(unwrapped(model).parameters())
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        return "ZeRO-3"
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        return "FSDP1"
    return "FSDP2" if any(hasattr(parameter, "full_tensor") for parameter in parameters) else None


def has_adapter(model: Any) -> bool:
    """Whether PEFT put an adapter into it."""
    return bool(getattr(model, "peft_config", None))


def adapter_of(model: Any) -> tuple[str, dict[str, Any]]:
    """The name of the adapter that a PEFT model uses, and its configuration.

    Raises:
        Unsupported: it uses several, or one is merged into the base at the moment.
    """
    # `active_adapter` of a PEFT model may name another one than its layers use.
    given = getattr(model, "active_adapters", None)
    given = given() if callable(given) else given
    names = [given] if isinstance(given, str) else list(given or ())
    if len(names) != 1:
        raise Unsupported(f"the model uses the adapters {names}: one can be merged. Call `model.set_adapter(name)`")
    active = names[0]
    disabled = next((name for name, module in model.named_modules() if getattr(module, "disable_adapters", False) is True), None)
    if disabled is not None:
        raise Unsupported(f"the adapter of {disabled} is disabled: call `model.enable_adapter_layers()`, or give the base model")
    merged = next((name for name, module in model.named_modules() if getattr(module, "merged_adapters", None)), None)
    if merged is not None:
        raise Unsupported(f"{merged} has its adapter merged into the base already: call `model.unmerge_adapter()` first")
    return active, config_dict(model.peft_config[active])


def config_dict(config: Any) -> dict[str, Any]:
    """A configuration of PEFT as its JSON has it."""
    given = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"adapter is {config!r}: it is a folder that PEFT saved, or a configuration of PEFT")
    # It has sets, and enumerations of texts.
    return cast("dict[str, Any]", json.loads(json.dumps(dict(given), default=_plain)))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def without_other_adapters(model: Any, state: Mapping[str, Any], active: str) -> dict[str, Any]:
    """The tensors of a PEFT model without those of adapters that it does not use."""
    others = set(model.peft_config) - {active}
    return {name: tensor for name, tensor in state.items() if not others & set(_owner(name))}


def _owner(name: str) -> list[str]:
    """The adapter that a tensor belongs to: the part behind PEFT's own word."""
    parts = name.split(".")
    pairs = zip(parts, parts[1:], strict=False)
    return [after for part, after in pairs if part.startswith("lora_") or part == "modules_to_save"]


def split_adapter(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a PEFT model: those of the base under its own names, and those of the adapter."""
    base: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    for name, tensor in state.items():
        if ".lora_" in name or ".modules_to_save." in name:
            adapter[name] = tensor
        else:
            own = name.removeprefix("base_model.model.")
            base[own.replace(".base_layer.", ".").replace(".original_module.", ".").removeprefix("original_module.")] = tensor
    return base, adapter
