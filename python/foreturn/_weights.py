"""The weights of a model in training, by the names of its checkpoint. It imports no framework."""

from __future__ import annotations

from typing import Any

from ._errors import ModelOutput, Unsupported

_WRAPPERS = ("module", "_orig_mod")


def unwrapped(model: Any) -> Any:
    """The model inside what data parallelism and `torch.compile` put around it."""
    inner = next((getattr(model, name) for name in _WRAPPERS if hasattr(model, name)), None)
    return model if inner is None else unwrapped(inner)


def weights_of(model: Any) -> dict[str, Any]:
    """The tensors of a model's checkpoint, on the CPU, detached. Those of adapters (LoRA) are merged into fresh memory.

    Sharded tensors (FSDP2) are gathered, so all processes have to call this at once.

    Raises:
        Unsupported: the parameters are sharded, or adapted, in another way.
        ModelOutput: a weight is not a finite number.
    """
    model = unwrapped(model)
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise Unsupported("the model's parameters are sharded by ZeRO-3, whose gathering is not supported: use ZeRO-2 or FSDP2")
    tensors = _merged(model) if hasattr(model, "peft_config") else model.state_dict()
    return checked({name: _whole(tensor) for name, tensor in tensors.items()})


def checked(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights, all of which are finite.

    Raises:
        ModelOutput: one is not.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelOutput(f"the trainer's weight {name} is not finite: training has diverged, so no reward is computed")
    return weights


def _whole(tensor: Any) -> Any:
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu()


def _merged(model: Any) -> dict[str, Any]:
    """The tensors of a PEFT model. `merge_adapter` would change the base weights by rounding, so it is not used."""
    adapter = model.active_adapter
    if not isinstance(adapter, str):
        raise Unsupported(f"the model has the active adapters {adapter}: one is supported")
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    deltas = {f"{name}.base_layer.weight": layer for name, layer in layers.items() if adapter in layer.scaling}
    merged: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        if ".lora_magnitude" in name or ".lora_" not in name and name.endswith(f".{adapter}.weight") and "modules_to_save" not in name:
            raise Unsupported(f"the adapter's tensor {name} is of a kind that can't be merged: LoRA without DoRA can")
        if ".lora_" in name or ".original_module." in name:
            continue
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(f".modules_to_save.{adapter}.", ".")
        merged[plain] = tensor.detach() + deltas[name].get_delta_weight(adapter) if name in deltas else tensor
    return merged
