"""The peers, each behind the same interface: `load` makes one, `generate` runs a batch.

Every engine samples at temperature 1 from the whole vocabulary, those called greedy excepted, and goes on past the end of
a turn, so that each reply has exactly the tokens that were asked for. Packages are imported when an engine is made, since
one process holds one.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from workload import Tokens

SEED = 1


@dataclass(frozen=True)
class Replies:
    """What came of a batch, and when."""

    tokens: list[Tokens]
    prefill_seconds: float
    """Until each sequence had its first token."""
    decode_seconds: float
    """From there to the last token."""
    computed_tokens: int | None
    """Prompt tokens that the engine computed; None where it does not say."""
    prefill_tokens: int
    """Prompt tokens whose computation is the prefill."""


class Engine(Protocol):
    """A loaded model."""

    def generate(self, prompts: list[Tokens], new: int) -> Replies:
        """Exactly `new` tokens after each prompt; all prompts of a batch are of the same length."""


class Genai:
    """onnxruntime-genai on an exported folder. A batch is a rectangle of tokens; nothing is shared."""

    def __init__(self, model: Path, threads: int, greedy: bool) -> None:
        import onnxruntime_genai

        self.genai = onnxruntime_genai
        config = onnxruntime_genai.Config(str(model))
        config.overlay(json.dumps(overlay(model, threads)))
        self.model = onnxruntime_genai.Model(config)
        self.seed = SEED
        self.greedy = greedy

    def generate(self, prompts: list[Tokens], new: int) -> Replies:
        """See `Engine`."""
        import numpy

        start = time.perf_counter()
        length = len(prompts[0])
        params = self.genai.GeneratorParams(self.model)
        # The minimum keeps the end of a turn from being sampled.
        params.set_search_options(
            batch_size=len(prompts), min_length=length + new, max_length=length + new,
            do_sample=not self.greedy, temperature=1.0, top_k=0, top_p=1.0, random_seed=self.seed,
        )  # fmt: skip
        self.seed += 1
        generator = self.genai.Generator(self.model, params)
        generator.append_tokens(numpy.array(prompts, dtype=numpy.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(new - 1):
            generator.generate_next_token()
        end = time.perf_counter()
        tokens = [generator.get_sequence(index)[length:].tolist() for index in range(len(prompts))]
        computed = len(prompts) * length
        return Replies(tokens, first - start, end - first, computed, computed)


def overlay(model: Path, threads: int) -> dict[str, Any]:
    """Settings on top of the folder's own."""
    config = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))
    ends = config["model"]["eos_token_id"]
    # genai takes padding tokens in a prompt for padding wherever they are. The end of a turn is never sampled here.
    padding = ends[0] if isinstance(ends, list) else ends
    return {"model": {"pad_token_id": padding, "decoder": {"session_options": {"intra_op_num_threads": threads}}}}


class HuggingFace:
    """transformers on torch. A batch is a rectangle of tokens; nothing is shared."""

    def __init__(self, model: Path, threads: int, cells: int, dtype: str) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(threads)
        torch.manual_seed(SEED)
        self.torch, self.transformers = torch, transformers
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()

    def generate(self, prompts: list[Tokens], new: int) -> Replies:
        """See `Engine`."""
        times: list[float] = []

        def note_time(tokens: Any, _scores: Any, **_: Any) -> Any:
            """A stopping criterion, asked after every step, that never stops."""
            times.append(time.perf_counter())
            return self.torch.zeros(tokens.shape[0], dtype=self.torch.bool)

        start = time.perf_counter()
        batch = self.torch.tensor(prompts)
        with self.torch.inference_mode():
            sequences = self.model.generate(
                batch,
                attention_mask=self.torch.ones_like(batch),
                min_new_tokens=new,
                max_new_tokens=new,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                pad_token_id=self.model.config.eos_token_id,
                stopping_criteria=self.transformers.StoppingCriteriaList([note_time]),
            )
        end = time.perf_counter()
        computed = batch.numel()
        replies = sequences[:, batch.shape[1] :].tolist()
        return Replies(replies, times[0] - start, end - times[0], computed, computed)


@dataclass(frozen=True)
class Cell:
    """One token to compute with llama.cpp, for every sequence that has it at this place."""

    token: int
    position: int
    sequences: list[int]
    ends: list[int]
    """Those sequences whose prompt ends here, which need logits."""


class Llama:
    """llama.cpp through the low-level part of llama-cpp-python.

    Common beginnings are computed once: each token of the prompts' prefix tree is put into the unified cache with the
    ids of all sequences that run through it. llama.cpp can do this, but nothing in it does so by itself.
    """

    BATCH = 2048
    SEQUENCES = 16

    def __init__(self, model: Path, threads: int, cells: int) -> None:
        import ctypes

        import llama_cpp

        self.api = llama_cpp
        # Kept, or it would be freed while llama.cpp still calls it.
        self.silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {model}")
        self.context = llama_cpp.llama_init_from_model(self.model, self.context_params(threads, cells))
        if not self.context:
            raise RuntimeError(f"llama.cpp could not make a context of {cells} tokens")
        self.batch = llama_cpp.llama_batch_init(self.BATCH, 0, self.SEQUENCES)
        self.sampler = llama_cpp.llama_sampler_init_dist(SEED)

    def context_params(self, threads: int, cells: int) -> Any:
        """A unified cache with room for `cells` tokens."""
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = cells, self.BATCH, 512
        params.n_seq_max, params.kv_unified = self.SEQUENCES, True
        params.n_threads = params.n_threads_batch = threads
        return params

    def generate(self, prompts: list[Tokens], new: int) -> Replies:
        """See `Engine`."""
        if len(prompts) > self.SEQUENCES:
            raise ValueError(f"{len(prompts)} prompts, but the cache is made for {self.SEQUENCES} sequences")
        start = time.perf_counter()
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        cells = prefix_tree(prompts)
        replies: list[Tokens] = [[] for _ in prompts]
        for at in range(0, len(cells), self.BATCH):
            self.step(cells[at : at + self.BATCH], replies)
        first = time.perf_counter()
        length = len(prompts[0])
        for position in range(length, length + new - 1):
            step = [Cell(reply[-1], position, [index], [index]) for index, reply in enumerate(replies)]
            self.step(step, replies)
        return Replies(replies, first - start, time.perf_counter() - first, len(cells), len(cells))

    def step(self, cells: list[Cell], replies: list[Tokens]) -> None:
        """Computes tokens, and samples the next one of each sequence that ends with one of them."""
        batch = self.batch
        batch.n_tokens = len(cells)
        for at, cell in enumerate(cells):
            batch.token[at], batch.pos[at] = cell.token, cell.position
            batch.n_seq_id[at], batch.logits[at] = len(cell.sequences), bool(cell.ends)
            for slot, sequence in enumerate(cell.sequences):
                batch.seq_id[at][slot] = sequence
        status = self.api.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode failed with {status}")
        for at, cell in enumerate(cells):
            for sequence in cell.ends:
                replies[sequence].append(self.api.llama_sampler_sample(self.sampler, self.context, at))


def prefix_tree(prompts: list[Tokens]) -> list[Cell]:
    """The tokens of the prompts, common beginnings once; depth first, so that no token is before what it follows."""
    cells: list[Cell] = []
    open_branches = [(0, list(range(len(prompts))))]
    while open_branches:
        position, sequences = open_branches.pop()
        groups: dict[int, list[int]] = {}
        for sequence in sequences:
            groups.setdefault(prompts[sequence][position], []).append(sequence)
        if len(groups) > 1:
            # Each branch comes back here with one token.
            open_branches.extend((position, group) for group in reversed(groups.values()))
            continue
        ends = [sequence for sequence in sequences if len(prompts[sequence]) == position + 1]
        cells.append(Cell(prompts[sequences[0]][position], position, sequences, ends))
        longer = [sequence for sequence in sequences if len(prompts[sequence]) > position + 1]
        if longer:
            open_branches.append((position + 1, longer))
    return cells


class OpenVino:
    """OpenVINO GenAI's continuous batching, with its prefix cache.

    The cache has what earlier requests computed, in whole blocks, and not what others of the same step compute. So where
    prompts have a beginning in common, one of them is submitted first, and the others when it has its first token.
    """

    BLOCK = 32
    """Tokens of a block of its cache on the CPU."""

    def __init__(self, model: Path, threads: int, precision: str | None) -> None:
        import openvino
        import openvino_genai

        self.openvino, self.genai = openvino, openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.enable_prefix_caching = True
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        if precision:
            properties["INFERENCE_PRECISION_HINT"] = precision
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", properties)
        self.requests = 0

    def submit(self, prompt: Tokens, new: int) -> Any:
        """Queues a request."""
        import numpy

        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = new, True
        config.do_sample, config.temperature, config.top_p, config.rng_seed = True, 1.0, 1.0, self.requests
        self.requests += 1
        tokens = self.openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        return self.pipeline.add_request(self.requests, tokens, config)

    def generate(self, prompts: list[Tokens], new: int) -> Replies:
        """See `Engine`."""
        start = time.perf_counter()
        handles: dict[int, Any] = {}
        for level in levels(prompts, self.BLOCK):
            for index in level:
                handles[index] = self.submit(prompts[index], new)
            while not all(handles[index].can_read() for index in level):
                self.pipeline.step()
        first = time.perf_counter()
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
        end = time.perf_counter()
        replies = [list(handles[index].read_all()[0].generated_ids) for index in range(len(prompts))]
        # Copies of one prompt are one computation and the ends of its last block.
        prefill = len(distinct_blocks(prompts, self.BLOCK)) * self.BLOCK
        return Replies(replies, first - start, end - first, None, min(prefill, sum(map(len, prompts))))


def common(one: Tokens, other: Tokens) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def levels(prompts: list[Tokens], block: int) -> list[list[int]]:
    """The prompts in groups: each waits for one before it that has more blocks of it than all others that are done."""
    done: list[int] = []
    found: list[list[int]] = []
    left = list(range(len(prompts)))
    while left:
        level: list[int] = []
        for index in left:
            shared = [common(prompts[index], prompts[other]) // block for other in done]
            best = max(shared, default=0)
            if all(common(prompts[index], prompts[other]) // block <= best for other in level):
                level.append(index)
        found.append(level)
        done += level
        left = [index for index in left if index not in level]
    return found


def distinct_blocks(prompts: list[Tokens], block: int) -> set[tuple[int, ...]]:
    """The blocks that a cache of whole blocks has to have, each with all that is before it."""
    return {tuple(prompt[: at + block]) for prompt in prompts for at in range(0, len(prompt), block)}


def load(name: str, model: Path, threads: int, cells: int) -> Engine:
    """The engine of that name; `cells` is how many tokens it has to hold, if it shares."""
    kind, _, precision = name.partition("-")
    if kind == "genai":
        return Genai(model, threads, greedy=precision.endswith("greedy"))
    if kind == "llama":
        return Llama(model, threads, cells)
    if kind == "hf":
        return HuggingFace(model, threads, cells, {"fp32": "float32", "bf16": "bfloat16"}[precision])
    if kind == "openvino":
        return OpenVino(model, threads, {"fp32": "f32", "bf16": "bf16", "int8": None}[precision])
    raise ValueError(f"no engine is called {name}")
