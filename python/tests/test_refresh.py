"""New weights for an engine that goes on serving: from folders, from arrays, and with a LoRA adapter."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import foreturn
from conftest import CONFIG, REQUEST, checkpoint, length
from foreturn import _refresh

TOKENS = list(range(5, 30))
State = dict[str, Any]


def read_state(folder: Path) -> State:
    """The tensors of a checkpoint."""
    data = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    kinds = {"F32": numpy.float32, "F16": numpy.float16}
    return {
        name: numpy.frombuffer(data[end + at["data_offsets"][0] : end + at["data_offsets"][1]], kinds[at["dtype"]])
        .reshape(at["shape"]).copy()
        for name, at in header.items()
    }


def write_state(state: State, path: Path) -> None:
    """Writes float32 tensors as safetensors does."""
    header, place = {}, 0
    for name, tensor in state.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, place + tensor.nbytes]}
        place += tensor.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in state.values()))


def said(engine: foreturn.Engine) -> list[float]:
    return list(engine.logprobs("policy", tokens=TOKENS).logprobs)


class Models:
    """A checkpoint, its export, and exports of other weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = checkpoint("smollm2", folder / "checkpoint")
        self.state = {name: tensor.astype(numpy.float32) for name, tensor in read_state(self.checkpoint).items()}
        write_state(self.state, self.checkpoint / "model.safetensors")
        foreturn.export(self.checkpoint, folder / "model")

    def export(self, name: str, state: State, **options: Any) -> Path:
        """The export of a state dict."""
        source = self.folder / f"{name}-checkpoint"
        shutil.copytree(self.checkpoint, source)
        write_state(state, source / "model.safetensors")
        foreturn.export(source, self.folder / name, **options)
        return self.folder / name

    def expected(self, name: str, state: State, **options: Any) -> list[float]:
        """What an engine says that only ever had these weights."""
        with foreturn.Engine(models={"policy": self.export(name, state, **options)}) as engine:
            return said(engine)

    def other(self, factor: float = 0.8) -> State:
        """Other weights."""
        return {name: (tensor * numpy.float32(factor)) for name, tensor in self.state.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("refresh"))


@pytest.fixture
def engine(made: Models) -> Iterator[foreturn.Engine]:
    with foreturn.Engine(models={"policy": made.folder / "model"}) as engine:
        yield engine


def test_a_state_dict_gives_the_bits_of_an_export(made: Models, engine: foreturn.Engine) -> None:
    before, state = said(engine), made.other()
    expected = made.expected("plain", state)
    assert expected != before
    assert engine.refresh("policy", state, version="step 1") == "step 1"
    assert said(engine) == expected
    # Names as wrappers leave them, and memory in another order.
    wrapped = {f"module._orig_mod.{name}": numpy.asfortranarray(tensor) for name, tensor in made.state.items()}
    version = engine.refresh("policy", wrapped, mode="restart")
    assert version.endswith("-2") and said(engine) == before
    assert engine.statistics().to_dict()["models"]["policy"]["refreshes"] == 2
    assert asyncio.run(engine.refresh_async("policy", state, version="step 3", mode="abort")) == "step 3"
    assert said(engine) == expected
    half = {name: tensor.astype(numpy.float16) for name, tensor in state.items()}
    engine.refresh("policy", half)
    assert said(engine) == made.expected("half", {name: tensor.astype(numpy.float32) for name, tensor in half.items()})


def test_a_folder_gives_its_weights(made: Models, engine: foreturn.Engine) -> None:
    state = made.other(0.7)
    expected = made.expected("folder", state)
    assert engine.refresh("policy", made.folder / "folder", version="folder") == "folder" and said(engine) == expected
    assert asyncio.run(engine.refresh_async("policy", str(made.folder / "model"), version="back")) == "back"
    assert said(engine) != expected


@pytest.mark.parametrize("form", [{"quantize": "int8"}, {"quantize": "int4"}, {"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_a_model_in_few_bits_is_rounded_by_the_same_rules(made: Models, form: dict[str, Any]) -> None:
    state, bits = made.other(1.1), "-".join(form.values())
    expected = made.expected(f"new-{bits}", state, **form)
    with foreturn.Engine(models={"policy": made.export(f"old-{bits}", made.state, **form)}) as engine:
        assert said(engine) != expected
        engine.refresh("policy", state)
        assert said(engine) == expected


def change(name: str, to: Callable[[Any], Any]) -> Callable[[State], State]:
    return lambda state: state | {name: to(state[name])}


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        (lambda state: {name: tensor for name, tensor in state.items() if name != NORM}, foreturn.InvalidRequest, NORM),
        (lambda state: state | {"model.extra.weight": state[NORM]}, foreturn.InvalidRequest, "model.extra.weight"),
        (change(NORM, lambda tensor: tensor[:-1]), foreturn.InvalidRequest, NORM),
        (change(NORM, lambda tensor: tensor * numpy.nan), foreturn.InvalidModel, NORM),
        (change(NORM, lambda tensor: tensor.astype(numpy.float64)), foreturn.InvalidArgument, f"{NORM} holds float64"),
        (change(NORM, lambda tensor: tensor.astype(numpy.int64)), foreturn.InvalidArgument, f"{NORM} holds int64"),
        (change(NORM, lambda tensor: tensor.astype(">f4")), foreturn.InvalidArgument, f"{NORM} holds numbers of another byte"),
        (change(NORM, lambda tensor: list(tensor)), foreturn.InvalidArgument, f"{NORM} is a list"),
        (lambda state: {7: 1}, foreturn.InvalidArgument, "name 7"),
        (lambda state: {}, foreturn.InvalidArgument, "empty"),
        (lambda state: [state], foreturn.InvalidArgument, "weights is a list"),
        (lambda state: None, foreturn.InvalidArgument, "no new weights"),
        (lambda state: "/nowhere", foreturn.InvalidModel, "/nowhere"),
        (lambda state: state | {"base_model.model.x.lora_A.default.weight": state[NORM]}, foreturn.Unsupported, "lora_A"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    made: Models, engine: foreturn.Engine, changed: Any, kind: type[Exception], words: str
) -> None:
    before = said(engine)
    with pytest.raises(kind, match=words.replace(".", r"\.")):
        engine.refresh("policy", changed(made.state))
    with pytest.raises(kind, match=words.replace(".", r"\.")):
        asyncio.run(engine.refresh_async("policy", changed(made.state)))
    assert said(engine) == before


def test_a_mode_a_role_and_an_engine_that_are_wrong_are_refused(made: Models) -> None:
    path = str(made.folder / "model")
    config = {
        "models": {"policy": {"path": path}}, "roles": {"policy": "policy", "user": "policy"},
        "metrics": [{"kind": "token_amount"}],
    }
    with foreturn.Engine(config) as engine:
        with pytest.raises(foreturn.InvalidArgument, match="mode is 'now'"):
            engine.refresh("policy", made.state, mode="now")  # type: ignore[arg-type]
        with pytest.raises(foreturn.InvalidRequest, match="policy and user|user and policy"):
            engine.refresh("policy", made.state)
        with pytest.raises(foreturn.InvalidRequest, match="nobody"):
            engine.refresh("nobody", made.state)
        engine.refresh("policy", made.other(), shared=True)
    with pytest.raises(foreturn.Closed):
        engine.refresh("policy", made.state)


def test_a_chat_model_that_the_engine_waits_for_can_not_refresh_it(made: Models) -> None:
    engines: list[foreturn.Engine] = []

    def reply(batch: Any) -> list[str]:
        engines[0].refresh("policy", made.state)
        return ["never"] * len(batch)

    config = CONFIG | {"models": {"policy": {"path": str(made.folder / "model")}}}
    with foreturn.Engine(config, chat_models={"echo": reply}, metrics=[length]) as engine:
        engines.append(engine)
        with pytest.raises(foreturn.ModelOutput) as failed:
            engine.rank(REQUEST)
        assert isinstance(failed.value.__cause__, foreturn.Reentrant)


def test_no_call_mixes_weights(made: Models, engine: foreturn.Engine) -> None:
    first, second = said(engine), made.expected("under-load", made.other(0.9))
    seen: set[tuple[float, ...]] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            seen.add(tuple(said(engine)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(6):
        # From another thread than the main one, too.
        state = made.state if step % 2 else made.other(0.9)
        worker = threading.Thread(target=engine.refresh, args=("policy", state))
        worker.start()
        worker.join()
    over.set()
    for thread in threads:
        thread.join()
    assert seen == {tuple(first), tuple(second)}


def test_an_interrupt_leaves_the_old_weights(made: Models, engine: foreturn.Engine) -> None:
    before = said(engine)
    with pytest.raises(foreturn.DeadlineExceeded):
        engine.refresh("policy", made.other(), timeout=1e-6)
    assert said(engine) == before

    def work(token: Any) -> str:
        # The main thread cancels the token while this one is on its way to the library.
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(0.2)
        return engine._refresh(_refresh.Refresh("policy", made.other(), None, None, "wait", False, None), token)

    with pytest.raises(KeyboardInterrupt):
        _refresh.wait(work)
    assert said(engine) == before
    engine.refresh("policy", made.other())
    assert said(engine) != before


def test_a_refresh_that_waits_for_requests_can_be_cancelled(made: Models, engine: foreturn.Engine) -> None:
    before = said(engine)

    async def program() -> None:
        begun = asyncio.Event()
        long = asyncio.create_task(engine.generate_async(
            "policy", tokens=TOKENS, max_tokens=6000, ignore_eos=True, on_text=lambda text: begun.set()
        ))
        await begun.wait()
        refresh = asyncio.create_task(engine.refresh_async("policy", made.other()))
        await asyncio.sleep(0.1)
        assert not refresh.done() and not long.done()
        refresh.cancel()
        with pytest.raises(asyncio.CancelledError):
            await refresh
        # With `abort`, the request ends instead.
        while True:
            try:
                await engine.refresh_async("policy", made.state, version="same", mode="abort")
                break
            except foreturn.InvalidRequest as error:
                # The cancelled one is still letting go.
                assert "under way" in str(error)
                await asyncio.sleep(0.01)
        with pytest.raises(foreturn.Cancelled):
            await long

    asyncio.run(program())
    assert said(engine) == before and engine.statistics().to_dict()["models"]["policy"]["weights"] == "same"


# LoRA. The expected weights are computed here, in float64.

RANK = 4
TARGETS = ("q_proj", "v_proj", "down_proj")


def adapter_config(**changes: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 12, "target_modules": list(TARGETS), "use_rslora": False, "bias": "none",
        "fan_in_fan_out": False, "init_lora_weights": True, "lora_dropout": 0.1, "task_type": "CAUSAL_LM",
    } | changes


def adapter_state(made: Models, *, name: str = "", seed: int = 3) -> State:
    """The two matrices of each target, as PEFT calls them."""
    random = numpy.random.default_rng(seed)
    state: State = {}
    for weight, tensor in made.state.items():
        module = weight.removesuffix(".weight")
        if module.endswith(TARGETS):
            for part, shape in {"A": (RANK, tensor.shape[1]), "B": (tensor.shape[0], RANK)}.items():
                key = f"base_model.model.{module}.lora_{part}{name}.weight"
                state[key] = random.normal(0, 0.1, shape).astype(numpy.float32)
    return state


def merged(made: Models, adapter: State, scale: Callable[[str], float], name: str = "") -> State:
    state = dict(made.state)
    for key in adapter:
        if f".lora_A{name}." not in key:
            continue
        weight = key.removeprefix("base_model.model.").replace(f".lora_A{name}", "")
        product = adapter[key.replace("lora_A", "lora_B")].astype(float) @ adapter[key].astype(float)
        state[weight] = (made.state[weight] + scale(weight) * product).astype(numpy.float32)
    return state


def adapter_folder(to: Path, config: dict[str, Any], state: State) -> Path:
    to.mkdir()
    (to / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    write_state(state, to / "adapter_model.safetensors")
    return to


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, lambda weight: 3.0),
        ({"use_rslora": True}, lambda weight: 6.0),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 8}},
         lambda weight: 0.5 if "layers.0.self_attn.q_proj" in weight else 2.0 if "down_proj" in weight else 3.0),
    ],
)
def test_an_adapter_is_merged_as_its_configuration_says(
    made: Models, engine: foreturn.Engine, tmp_path: Path, changes: dict[str, Any], scale: Callable[[str], float]
) -> None:
    base, state = said(engine), adapter_state(made)
    folder = adapter_folder(tmp_path / "adapter", adapter_config(**changes), state)
    export = tmp_path / "export"
    foreturn.export(made.checkpoint, export, adapter=folder)
    with foreturn.Engine(models={"policy": export}) as fresh:
        exported = said(fresh)
    with foreturn.Engine(models={"policy": made.export(tmp_path.name, merged(made, state, scale))}) as fresh:
        assert exported != base and exported == pytest.approx(said(fresh), abs=1e-5)
    # Into the folder that runs, into a folder, into tensors, and from tensors: the same bits.
    live = adapter_state(made, name=".default") | {
        f"base_model.model.{name.replace('_proj.', '_proj.base_layer.')}": tensor for name, tensor in made.state.items()
    }
    for weights, adapter in [
        (None, folder), (made.folder / "model", str(folder)), (made.state, folder), (live, adapter_config(**changes)),
    ]:
        engine.refresh("policy", made.state)
        if weights is None:
            # The tensors of just now are nowhere any more, so nothing can be added to them.
            with pytest.raises(foreturn.InvalidRequest, match="came from memory"):
                engine.refresh("policy", adapter=adapter)
            engine.refresh("policy", made.folder / "model")
        engine.refresh("policy", weights, adapter=adapter)
        assert said(engine) == exported


def test_the_command_merges_an_adapter(
    made: Models, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = adapter_folder(tmp_path / "adapter", adapter_config(), adapter_state(made))
    foreturn.export(made.checkpoint, tmp_path / "here", adapter=folder)
    command = ["-m", "foreturn", "export", "--from", str(made.checkpoint), "--to", str(tmp_path / "there"), "--adapter"]
    assert run(*command, str(folder)).returncode == 0
    for name in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    refused = run(*command, str(tmp_path))
    assert refused.returncode != 0 and "adapter_config.json" in refused.stderr


def test_an_adapter_is_merged_before_weights_are_quantised(made: Models, tmp_path: Path) -> None:
    state = adapter_state(made)
    folder = adapter_folder(tmp_path / "adapter", adapter_config(), state)
    foreturn.export(made.checkpoint, tmp_path / "int8", "int8", adapter=folder)
    with foreturn.Engine(models={"policy": tmp_path / "int8"}) as engine:
        expected = said(engine)
    with foreturn.Engine(models={"policy": made.export("int8-base", made.state, quantize="int8")}) as engine:
        with pytest.raises(foreturn.Unsupported, match="few bits"):
            engine.refresh("policy", adapter=folder)
        engine.refresh("policy", made.state, adapter=folder)
        assert said(engine) == expected


def test_an_adapter_is_added_to_weights_in_half_precision(made: Models, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "adapter", adapter_config(), adapter_state(made))
    foreturn.export(made.checkpoint, tmp_path / "half", dtype="bfloat16", adapter=folder)
    with foreturn.Engine(models={"policy": tmp_path / "half"}) as engine:
        expected = said(engine)
    with foreturn.Engine(models={"policy": made.export("half-base", made.state, dtype="bfloat16")}) as engine:
        base = said(engine)
        engine.refresh("policy", made.state, adapter=folder)
        assert said(engine) == expected != base
        engine.refresh("policy", made.folder / "half-base")
        assert said(engine) == base
        # The folder's own weights are rounded already, and their sum with the adapter is rounded again.
        engine.refresh("policy", adapter=folder)
        near = said(engine)
        assert near != base and numpy.abs(numpy.subtract(near, expected)).mean() < 0.05


def whole(made: Models) -> State:
    return {f"base_model.model.{NORM}": made.state[NORM] * numpy.float32(1.5)}


def test_weights_that_were_trained_whole_take_the_place_of_the_base(
    made: Models, engine: foreturn.Engine, tmp_path: Path
) -> None:
    config = adapter_config(modules_to_save=["norm"])
    folder = adapter_folder(tmp_path / "adapter", config, adapter_state(made) | whole(made))
    foreturn.export(made.checkpoint, tmp_path / "export", adapter=folder)
    with foreturn.Engine(models={"policy": tmp_path / "export"}) as fresh:
        expected = said(fresh)
    engine.refresh("policy", adapter=folder)
    assert said(engine) == expected
    state = {f"base_model.model.{name}": tensor for name, tensor in made.state.items() if name != NORM}
    state |= adapter_state(made, name=".mine")
    state["base_model.model.model.norm.original_module.weight"] = made.state[NORM]
    state["base_model.model.model.norm.modules_to_save.mine.weight"] = made.state[NORM] * numpy.float32(1.5)
    engine.refresh("policy", made.state)
    engine.refresh("policy", state, adapter=config)
    assert said(engine) == expected


EMBEDDING = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"peft_type": "IA3"}, lambda s: s, "`peft_type` is .?IA3"),
        ({"use_dora": True}, lambda s: s, "`use_dora`"),
        ({"layer_replication": [[0, 1]]}, lambda s: s, "`layer_replication`"),
        ({"some_new_setting": 3}, lambda s: s, "`some_new_setting`"),
        ({"init_lora_weights": "pissa"}, lambda s: s, "`init_lora_weights`"),
        ({"alpha_pattern": {".*proj": 3}}, lambda s: s, "regular expression"),
        ({"lora_alpha": None}, lambda s: s, "`lora_alpha`"),
        ({}, lambda s: {}, "no weights of an adapter"),
        ({}, lambda s: {k: v for k, v in s.items() if "lora_B" not in k}, "lack matrix B"),
        ({}, lambda s: {k.replace("q_proj", "other_proj"): v for k, v in s.items()}, "other_proj"),
        ({}, lambda s: {k: v[:, :-1].copy() if "lora_A" in k else v for k, v in s.items()}, "another model's adapter"),
        ({}, lambda s: {k: v * numpy.float32("nan") if "lora_A" in k else v for k, v in s.items()}, "lora_A"),
        ({}, lambda s: s | {"base_model.model.x.lora_magnitude_vector": numpy.ones(3, "f4")}, "lora_magnitude_vector"),
        ({}, lambda s: s | {f"{EMBEDDING}.lora_embedding_A": numpy.ones((RANK, 320), "f4"),
                            f"{EMBEDDING}.lora_embedding_B": numpy.ones((32, RANK), "f4")}, "embed_tokens"),
    ],
)
def test_an_adapter_that_can_not_be_merged_is_refused_by_name(
    made: Models, engine: foreturn.Engine, tmp_path: Path, changes: dict[str, Any], state: Any, words: str
) -> None:
    before = said(engine)
    folder = adapter_folder(tmp_path / "adapter", adapter_config(**changes), state(adapter_state(made)))
    with pytest.raises(foreturn.Error, match=words) as refused:
        engine.refresh("policy", adapter=folder)
    assert refused.value.kind in ("unsupported", "invalid_model", "invalid_request")
    assert said(engine) == before
    with pytest.raises(foreturn.Error, match=words):
        foreturn.export(made.checkpoint, tmp_path / "export", adapter=folder)
    assert not (tmp_path / "export").exists()


def test_adapters_that_contradict_each_other_are_refused(made: Models, engine: foreturn.Engine, tmp_path: Path) -> None:
    two = made.state | adapter_state(made, name=".one") | adapter_state(made, name=".two")
    with pytest.raises(foreturn.InvalidRequest, match="tensor .* is there twice"):
        engine.refresh("policy", two, adapter=adapter_config())
    folder = adapter_folder(tmp_path / "adapter", adapter_config(), adapter_state(made))
    with pytest.raises(foreturn.InvalidRequest, match="the state dict without them"):
        engine.refresh("policy", made.state | adapter_state(made), adapter=folder)
    with pytest.raises(foreturn.InvalidArgument, match="adapter is 3"):
        engine.refresh("policy", made.state, adapter=3)
    with pytest.raises(foreturn.InvalidModel, match="adapter_config.json"):
        engine.refresh("policy", adapter=tmp_path)
