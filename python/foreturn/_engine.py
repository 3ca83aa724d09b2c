"""The engine: loaded models, ready to rank and score."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar, overload

from . import _calls, _many, _refresh, _runs, _runtime
from ._calls import Call, OnError, OnRankError
from ._callbacks import ChatModelLike, Host
from ._errors import Closed, Error, Reentrant, RuntimeMissing
from ._native import Arguments, failure, handle_of, lib, owned_text
from ._options import Metrics, Path, put_config, put_hosts, put_models
from ._pending import Pending, Relay
from ._pin import Pin
from ._refresh import Mode, Refresh
from ._requests import Conversation, RankRequest, ScoreInput, messages as message_array
from ._runs import Run
from ._results import EndedRollout, Generation, Interim, LogProbs, Ranking, Score, Statistics

T = TypeVar("T")
RankRequestLike: TypeAlias = RankRequest | Mapping[str, Any]
"""A request: an object, or a dict with the fields of the command line's JSON."""


class Engine:
    """Loaded models, ready to rank and score. A context manager. Any number of threads may use one at once.

    Methods that wait can be interrupted: an exception in the waiting thread, such as KeyboardInterrupt, cancels the
    request. Those whose name ends in `_async` are for `asyncio`; cancelling their task cancels the request.

    All methods raise `Error`. `timeout` is in seconds, from the submission of the request; None is no limit. Requests
    with a higher `priority` go first.
    """

    def __init__(
        self,
        config: Path | Mapping[str, Any] | None = None,
        *,
        base_folder: Path | None = None,
        models: Mapping[str, Path] | None = None,
        metrics: Metrics = (),
        chat_models: Mapping[str, ChatModelLike] | None = None,
        threads: int | None = None,
        runtime_library: Path | None = None,
    ) -> None:
        """Loads the models. This takes as long as reading their files.

        Args:
            config: the path of a `foreturn.toml`, or a dict with its keys (docs/configuration.md lists them).
            base_folder: the folder from which relative paths in a dict start; the working directory if None.
            models: folders of exported models by name, in addition to the configuration's.
            metrics: metrics in Python, in addition to the configuration's: a list, or a dict by name. See `Metric`.
            chat_models: chat models in Python by the names that roles use.
            threads: size of the pool that all models share, up to 4 per processor; the configuration's if None.
            runtime_library: the path of ONNX Runtime's library; overrides the configuration's. If there is neither, and
                ORT_DYLIB_PATH is not set, the library of the package `onnxruntime` or `onnxruntime-gpu` is used.

        Raises:
            InvalidConfig: the configuration is wrong. The message names the key.
            InvalidModel: a model's folder is incomplete or damaged.
            RuntimeMissing: there is no ONNX Runtime. The message says what to install.
        """
        found = None if runtime_library or _runtime.is_named(config) else _runtime.installed()
        arguments = Arguments()
        options = arguments.struct("foreturn_engine_options")
        put_config(arguments, options, config, base_folder)
        self._hosts = put_hosts(arguments, options, metrics, chat_models or {})
        put_models(arguments, options, models or {})
        if library := runtime_library or found:
            options.runtime_library = arguments.text(os.fspath(library), "runtime_library")
        if threads is not None:
            options.threads = _calls.number_in("threads", threads, 1, 2**32 - 1)
        try:
            self._handle = handle_of(lib.foreturn_engine_new, "foreturn_engine", options)
        except RuntimeMissing as error:
            if found is None and runtime_library is None:
                raise RuntimeMissing(f"{error}. {_runtime.ADVICE}", error.causes) from None
            raise
        # What the library points to lives as long as the engine's threads, also if the object is gone. At exit, the
        # finaliser closes an engine that is still open, while Python can still run callbacks.
        self._under_way: set[Relay] = set()
        self._close = self._closed_with_this()

    def _closed_with_this(self) -> weakref.finalize[[Any, list[Host], set[Relay]], Engine]:
        return weakref.finalize(self, _close, self._handle, self._hosts, self._under_way)

    def close(self) -> None:
        """Closes the engine. Requests that wait or run end with `Closed`, also on other threads.

        It returns when the engine's threads have ended, and with them the calls to metrics and chat models. Calling it
        again does nothing.

        Raises:
            Reentrant: it was called by a metric or chat model of the engine, whose end it would wait for.
            Forked: this is a child of the process that made the engine.
        """
        if self._close.detach() is None:
            return
        status = lib.foreturn_engine_free(self._handle)
        if status == lib.FORETURN_ERROR_REENTRANT:
            self._close = self._closed_with_this()
            raise Reentrant("an engine can't be closed by its own metric or chat model: it would wait for itself")
        if status != lib.FORETURN_OK:
            raise failure(status)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<foreturn.Engine, {'open' if self._close.alive else 'closed'}>"

    # Rankings.

    def rank(
        self,
        request: RankRequestLike,
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_progress: Callable[[int, int], object] | None = None,
        on_rollout: Callable[[EndedRollout], object] | None = None,
        on_interim: Callable[[list[Interim]], object] | None = None,
    ) -> Ranking:
        """Ranks a request's candidates.

        Args:
            request: a `RankRequest`, or a dict in the command line's format.
            timeout: at the deadline, what is finished for all candidates is ranked, and `complete` is False.
            priority: higher goes first.
            on_progress: called with the numbers of ended rollouts and of all. The thread that waits calls it.
            on_rollout: called likewise with each rollout that has ended. What it raises cancels the ranking.
            on_interim: called likewise with the candidates that have a reward by now, the best first, whenever another
                sample has ended for all of them.

        Raises:
            InvalidRequest: the request is wrong. The message names the field.
            DeadlineExceeded: no candidate had a reward at the deadline.
            Overloaded: the queue is full.
            ModelOutput: a failure that the configuration does not forgive. `__cause__` is the Python exception behind it.
        """
        call = _calls.rank(request, timeout, priority)
        return self._wait(call, on_progress=on_progress, on_rollout=on_rollout, on_interim=on_interim)

    async def rank_async(
        self,
        request: RankRequestLike,
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_progress: Callable[[int, int], object] | None = None,
        on_rollout: Callable[[EndedRollout], object] | None = None,
        on_interim: Callable[[list[Interim]], object] | None = None,
    ) -> Ranking:
        """As `rank`, on an event loop, which also calls the functions."""
        call = _calls.rank(request, timeout, priority)
        return await self._wait_on_loop(call, on_progress=on_progress, on_rollout=on_rollout, on_interim=on_interim)

    @overload
    def rank_many(
        self, requests: Iterable[RankRequestLike], on_error: Literal["raise"] = "raise", *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Ranking]: ...
    @overload
    def rank_many(
        self, requests: Iterable[RankRequestLike], on_error: Literal["none"], *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Ranking | None]: ...
    @overload
    def rank_many(
        self, requests: Iterable[RankRequestLike], on_error: Literal["return"], *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Ranking | Error]: ...
    def rank_many(
        self, requests: Iterable[RankRequestLike], on_error: OnRankError = "raise", *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Any]:
        """Ranks many requests, as many at once as the engine takes. The results are in the order of the requests.

        Args:
            requests: any number of requests. It waits for places, and is not refused where the queue is full.
            on_error: `"raise"`: the first failure cancels what is left, and is raised. `"none"`: a request that fails gives
                None, and the reason goes to the logger `foreturn`. `"return"`: it gives its `Error` instead. An engine that
                is closed is an error in any case.
            timeout: the limit of each request, from its submission.
            priority: higher goes first.
        """
        return _many.rank_many(self._submit, self._under_way, requests, on_error, timeout, priority)

    @overload
    async def rank_many_async(
        self, requests: Iterable[RankRequestLike], on_error: Literal["raise"] = "raise", *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Ranking]: ...
    @overload
    async def rank_many_async(
        self, requests: Iterable[RankRequestLike], on_error: Literal["none"], *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Ranking | None]: ...
    @overload
    async def rank_many_async(
        self, requests: Iterable[RankRequestLike], on_error: Literal["return"], *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Ranking | Error]: ...
    async def rank_many_async(
        self, requests: Iterable[RankRequestLike], on_error: OnRankError = "raise", *, timeout: float | None = None,
        priority: int = 0,
    ) -> list[Any]:
        """As `rank_many`, on an event loop."""
        return await _many.rank_many_async(self.rank_async, requests, on_error, timeout, priority)

    def rescore(
        self,
        request: RankRequestLike,
        ranking: Ranking | Mapping[str, Any],
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Ranking:
        """Scores the futures of an earlier ranking again, with this engine's judges and metrics. Nothing is sampled: where
        two engines' rewards differ, their judges do.

        Args:
            request: the request that the ranking was made of.
            ranking: what `rank` returned, here or elsewhere, or its dict. Rollouts that didn't count are left out.
            timeout: the limit in seconds, as in `rank`.
            priority: higher goes first.
            on_progress: as in `rank`.

        Raises:
            InvalidRequest: the ranking was not made of the request, or none of its rollouts counts.
        """
        return self._wait(_calls.rescore(request, ranking, timeout, priority), on_progress=on_progress)

    async def rescore_async(
        self,
        request: RankRequestLike,
        ranking: Ranking | Mapping[str, Any],
        *,
        timeout: float | None = None,
        priority: int = 0,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Ranking:
        """As `rescore`, on an event loop."""
        return await self._wait_on_loop(_calls.rescore(request, ranking, timeout, priority), on_progress=on_progress)

    # Scores.

    @overload
    def score(  # type: ignore[overload-overlap]  # A text is a sequence of texts, too.
        self, model: str, inputs: ScoreInput, *, task: str = ..., on_error: OnError = ..., separator: str | None = ...,
        marker: str | None = ..., timeout: float | None = ..., priority: int = ...,
    ) -> Score: ...
    @overload
    def score(
        self, model: str, inputs: Sequence[ScoreInput], *, task: str = ..., on_error: Literal["raise"] = ...,
        separator: str | None = ..., marker: str | None = ..., timeout: float | None = ..., priority: int = ...,
    ) -> list[Score]: ...
    @overload
    def score(
        self, model: str, inputs: Sequence[ScoreInput], *, task: str = ..., on_error: Literal["none"],
        separator: str | None = ..., marker: str | None = ..., timeout: float | None = ..., priority: int = ...,
    ) -> list[Score | None]: ...
    def score(
        self, model: str, inputs: ScoreInput | Sequence[ScoreInput], *, task: str = "labels", on_error: OnError = "raise",
        separator: str | None = None, marker: str | None = None, timeout: float | None = None, priority: int = 0,
    ) -> Any:
        """Scores conversations, texts or tokens with a local model. A prefix that they share is computed once.

        Args:
            model: the model's name.
            inputs: one conversation (its last message is scored), text or `Tokens`; or a list of them. `pin.replies(texts)`
                are replies to a conversation that `warm` pinned.
            task: `"labels"`: the logits of a reward model's or classifier's head. `"steps"`: a process reward for each step
                of the last message. `"response"`: a language model's log-probability of the last message, in nats.
            on_error: `"raise"`: one failure fails the call. `"none"`: an input that fails, or is not ready in time, gives
                None, and the reason goes to the logger `foreturn`. It applies to lists.
            separator: the text between steps; a blank line if None.
            marker: the control token after each step; `"<extra_0>"` if None.
            timeout: the limit of the whole call.
            priority: higher goes first.

        Returns:
            A score for one input, otherwise a list of them in the order of the inputs.
        """
        return self._wait(_calls.score(model, inputs, task, on_error, separator, marker, timeout, priority))

    @overload
    async def score_async(  # type: ignore[overload-overlap]  # A text is a sequence of texts, too.
        self, model: str, inputs: ScoreInput, *, task: str = ..., on_error: OnError = ..., separator: str | None = ...,
        marker: str | None = ..., timeout: float | None = ..., priority: int = ...,
    ) -> Score: ...
    @overload
    async def score_async(
        self, model: str, inputs: Sequence[ScoreInput], *, task: str = ..., on_error: Literal["raise"] = ...,
        separator: str | None = ..., marker: str | None = ..., timeout: float | None = ..., priority: int = ...,
    ) -> list[Score]: ...
    @overload
    async def score_async(
        self, model: str, inputs: Sequence[ScoreInput], *, task: str = ..., on_error: Literal["none"],
        separator: str | None = ..., marker: str | None = ..., timeout: float | None = ..., priority: int = ...,
    ) -> list[Score | None]: ...
    async def score_async(
        self, model: str, inputs: ScoreInput | Sequence[ScoreInput], *, task: str = "labels", on_error: OnError = "raise",
        separator: str | None = None, marker: str | None = None, timeout: float | None = None, priority: int = 0,
    ) -> Any:
        """As `score`, on an event loop."""
        call = _calls.score(model, inputs, task, on_error, separator, marker, timeout, priority)
        return await self._wait_on_loop(call)

    @overload
    def embed(  # type: ignore[overload-overlap]  # A text is a sequence of texts, too.
        self, model: str, inputs: ScoreInput, *, timeout: float | None = ..., priority: int = ...
    ) -> list[float]: ...
    @overload
    def embed(
        self, model: str, inputs: Sequence[ScoreInput], *, timeout: float | None = ..., priority: int = ...
    ) -> list[list[float]]: ...
    def embed(
        self, model: str, inputs: ScoreInput | Sequence[ScoreInput], *, timeout: float | None = None, priority: int = 0
    ) -> Any:
        """The embedding of one text, or of each text of a list: as many numbers as the model's vectors have."""
        return self._wait(_calls.embed(model, inputs, timeout, priority))

    @overload
    async def embed_async(  # type: ignore[overload-overlap]  # A text is a sequence of texts, too.
        self, model: str, inputs: ScoreInput, *, timeout: float | None = ..., priority: int = ...
    ) -> list[float]: ...
    @overload
    async def embed_async(
        self, model: str, inputs: Sequence[ScoreInput], *, timeout: float | None = ..., priority: int = ...
    ) -> list[list[float]]: ...
    async def embed_async(
        self, model: str, inputs: ScoreInput | Sequence[ScoreInput], *, timeout: float | None = None, priority: int = 0
    ) -> Any:
        """As `embed`, on an event loop."""
        return await self._wait_on_loop(_calls.embed(model, inputs, timeout, priority))

    # Prompts.

    def generate(
        self, model: str, messages: Conversation | None = None, *, tokens: Sequence[int] | None = None,
        max_tokens: int = 256, seed: int = 0, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0,
        min_p: float = 0.0, repetition_penalty: float = 1.0, stop: Sequence[str] = (), ignore_eos: bool = False,
        schema: Mapping[str, Any] | str | None = None, on_text: Callable[[str], object] | None = None,
        timeout: float | None = None, priority: int = 0,
    ) -> Generation:
        """Samples a reply of a local language model.

        Args:
            model: the model's name.
            messages: the conversation to reply to, rendered with the model's chat template; or give `tokens`.
            tokens: the prompt's token ids.
            max_tokens: the most tokens to sample, at least 1.
            seed: the random stream, 0 to 2**64 - 1. The same request with the same seed gives the same reply.
            temperature: divides the logits; 0 is greedy.
            top_p: nucleus sampling, in (0, 1]; 1 is off.
            top_k: keeps this many of the likeliest tokens; 0 keeps all.
            min_p: drops tokens that are less likely than this share of the likeliest one, in [0, 1].
            repetition_penalty: on tokens that are already there, above 0; 1 is off.
            stop: texts that end the reply and are not part of it.
            ignore_eos: goes on past tokens that end the turn.
            schema: a JSON schema that the reply has to follow; not with `stop` or `ignore_eos`.
            on_text: called with each piece of the text, by the thread that waits. What it raises cancels the reply.
            timeout: at the deadline, the reply is what was sampled so far (`finish` is `"deadline"`).
            priority: higher goes first.
        """
        sampling = _calls.sampling(max_tokens, seed, temperature, top_p, top_k, min_p, repetition_penalty, ignore_eos)
        call = _calls.generate(model, messages, tokens, sampling, stop, schema, timeout, priority)
        return self._wait(call, on_text=on_text)

    async def generate_async(
        self, model: str, messages: Conversation | None = None, *, tokens: Sequence[int] | None = None,
        max_tokens: int = 256, seed: int = 0, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0,
        min_p: float = 0.0, repetition_penalty: float = 1.0, stop: Sequence[str] = (), ignore_eos: bool = False,
        schema: Mapping[str, Any] | str | None = None, on_text: Callable[[str], object] | None = None,
        timeout: float | None = None, priority: int = 0,
    ) -> Generation:
        """As `generate`, on an event loop, which also calls `on_text`."""
        sampling = _calls.sampling(max_tokens, seed, temperature, top_p, top_k, min_p, repetition_penalty, ignore_eos)
        call = _calls.generate(model, messages, tokens, sampling, stop, schema, timeout, priority)
        return await self._wait_on_loop(call, on_text=on_text)

    def logprobs(
        self, model: str, messages: Conversation | None = None, *, tokens: Sequence[int] | None = None,
        generation_prompt: bool = False, timeout: float | None = None, priority: int = 0,
    ) -> LogProbs:
        """The log-probability of each token of a prompt, given those before it, in nats: n - 1 numbers for n tokens.

        Args:
            model: the model's name.
            messages: a conversation, rendered with the model's chat template; or give `tokens`.
            tokens: token ids, used as they are.
            generation_prompt: whether the header of the assistant's reply follows the conversation.
            timeout: the limit of the call.
            priority: higher goes first.
        """
        return self._wait(_calls.logprobs(model, messages, tokens, generation_prompt, timeout, priority))

    async def logprobs_async(
        self, model: str, messages: Conversation | None = None, *, tokens: Sequence[int] | None = None,
        generation_prompt: bool = False, timeout: float | None = None, priority: int = 0,
    ) -> LogProbs:
        """As `logprobs`, on an event loop."""
        return await self._wait_on_loop(_calls.logprobs(model, messages, tokens, generation_prompt, timeout, priority))

    def warm(
        self, model: str, messages: Conversation | None = None, *, tokens: Sequence[int] | None = None,
        generation_prompt: bool = True, timeout: float | None = None, priority: int = 0,
    ) -> Pin:
        """Computes a prefix before it is needed, and keeps it in the cache until the pin is released.

        The arguments are those of `logprobs`, but the header of the reply is part of the prefix by default. A prefix that
        isn't ready in time is dropped.
        """
        return self._wait(_calls.warm(model, messages, tokens, generation_prompt, timeout, priority))

    async def warm_async(
        self, model: str, messages: Conversation | None = None, *, tokens: Sequence[int] | None = None,
        generation_prompt: bool = True, timeout: float | None = None, priority: int = 0,
    ) -> Pin:
        """As `warm`, on an event loop."""
        return await self._wait_on_loop(_calls.warm(model, messages, tokens, generation_prompt, timeout, priority))

    def render(self, model: str, messages: Conversation, *, generation_prompt: bool = True) -> str:
        """The text that a model's chat template makes of a conversation. It doesn't wait for the engine.

        Args:
            model: the model's name.
            messages: the conversation.
            generation_prompt: whether the header of the assistant's reply follows.
        """
        arguments = Arguments()
        name, said = arguments.text(model, "model"), message_array(arguments, messages, "messages")
        return self._text(lib.foreturn_render, name, *said, generation_prompt)

    def statistics(self) -> Statistics:
        """The engine's counters now. It waits for nothing."""
        return Statistics.from_dict(json.loads(self._text(lib.foreturn_engine_statistics_json)))

    # Whole conversations.

    def dataset_build(
        self, tasks: _runs.Path, folder: _runs.Path, *, candidates: int | None = None, turns: int | None = None,
        concurrency: int | None = None, seed: int | None = None, max_tokens: int | None = None,
        shard: tuple[int, int] | None = None, merge: Sequence[_runs.Path] = (), configuration: str = "",
        retry_failed: bool = False, parquet: bool = False, on_progress: _runs.OnRunProgress | None = None,
    ) -> dict[str, Any]:
        """Builds conversations turn by turn about tasks, or goes on with what is in the folder, and waits.

        The folder then has `dataset.jsonl`, `failed.jsonl` and `journal.jsonl`; docs/datasets.md of the project describes
        them. An exception in the waiting thread ends the build, and the next one goes on.

        Args:
            tasks: JSON Lines of `{"id", "prompt", "reference", "metadata"}`.
            folder: the folder to write to.
            candidates: candidates at each turn; 4 if None.
            turns: most turns of the assistant in a conversation; 4 if None.
            concurrency: conversations at the same time; 8 if None.
            seed: decides all random draws; the configuration's if None.
            max_tokens: no conversation begins that would probably take the build beyond so many tokens.
            shard: the number of the part of the tasks to take, from 1, and how many there are.
            merge: folders of other builds with the same settings, such as shards. Their conversations are taken over first.
            configuration: a hash or version of the configuration. A folder that was begun with another one is refused.
            retry_failed: holds conversations again that failed.
            parquet: writes `dataset.parquet`, too.
            on_progress: called with the numbers of finished, failed and all conversations. What it raises is raised when
                the build has ended.

        Returns:
            A summary, with `finished`, `set_aside`, `left`, `stopped` and `spent`.
        """
        run = Run(
            tasks, folder, configuration, seed, shard, merge, on_progress,
            candidates=candidates, turns=turns, concurrency=concurrency, max_tokens=max_tokens,
        )
        try:
            return run.build(self._open(), retry_failed, parquet)
        except Error as error:
            raise self._explain(error) from error.__cause__

    # New weights.

    def refresh(
        self, model: str, weights: Any = None, *, adapter: Any = None, version: str | None = None, mode: Mode = "wait",
        shared: bool = False, timeout: float | None = None,
    ) -> str:
        """Exchanges a local model's weights while the engine goes on serving. No ranking and no call sees both.

        Nothing has changed after an error. Both sets of weights are in memory for a moment.

        Args:
            model: the model's name.
            weights: the new weights. A folder: an export of the same model. A mapping: all tensors of a state dict by name,
                of PyTorch or NumPy, in float32, bfloat16 or float16; names may have what DDP, FSDP and `torch.compile` put
                before them. A model in memory: its state dict; if it is a PEFT model, its LoRA adapter is merged. None: the
                weights of the folder that the model runs from, for an `adapter`.
            adapter: a LoRA adapter to merge in float32: a folder that PEFT saved; or its configuration (an object or a dict),
                where its tensors are in the state dict.
            version: what rankings, traces and statistics call the weights; a fingerprint and a number if None.
            mode: what becomes of requests under way: `"wait"`: they end first. `"restart"`: they begin again. `"abort"`: they
                end with `Cancelled`.
            shared: allows a model that plays several roles to change in all of them. Otherwise it is refused.
            timeout: if the weights are not exchanged in time, the old ones stay.

        Tensors on the CPU are read where they are. Others, and those that are not contiguous, are copied one by one; all
        copies live until the call returns.

        Returns:
            The name of the new weights.

        Raises:
            InvalidRequest: a tensor is missing, has another shape, or has no place in the model; or the model plays several
                roles.
            InvalidModel: a tensor is not finite.
            InvalidArgument: what was given is not a tensor of a known type.
            Unsupported: the adapter can't be merged here; or the model is not an export of foreturn on the paged path.
        """
        asked = Refresh(model, weights, adapter, version, mode, shared, timeout)
        if asked.folder is not None:
            return self._wait(asked.from_folder())
        return _refresh.wait(lambda token: self._refresh(asked, token))

    async def refresh_async(
        self, model: str, weights: Any = None, *, adapter: Any = None, version: str | None = None, mode: Mode = "wait",
        shared: bool = False, timeout: float | None = None,
    ) -> str:
        """As `refresh`, on an event loop. The tensors must not be written to until it is done."""
        asked = Refresh(model, weights, adapter, version, mode, shared, timeout)
        if asked.folder is not None:
            return await self._wait_on_loop(asked.from_folder())
        return await _refresh.wait_on_loop(lambda token: self._refresh(asked, token))

    def _refresh(self, asked: Refresh, token: Any) -> str:
        try:
            return asked.from_memory(self._open(), token)
        except Error as error:
            raise self._explain(error) from error.__cause__

    # What they have in common.

    def _open(self) -> Any:
        """The handle, if the engine is open."""
        if not self._close.alive:
            raise Closed("the engine is closed: make another one")
        return self._handle

    def _submit(self, call: Call[T], relay: Relay) -> Pending[T]:
        try:
            return Pending(call.submit(self._open(), Arguments(), relay), relay, call.take, self._explain)
        except Error as error:
            relay.drop()
            raise self._explain(error) from error.__cause__

    def _text(self, function: Any, *arguments: Any) -> str:
        try:
            return owned_text(function, self._open(), *arguments)
        except Error as error:
            raise self._explain(error) from None

    def _wait(self, call: Call[T], **callbacks: Any) -> T:
        return self._submit(call, Relay(self._under_way, **callbacks)).wait()

    async def _wait_on_loop(self, call: Call[T], **callbacks: Any) -> T:
        relay = Relay(self._under_way, loop=asyncio.get_running_loop(), **callbacks)
        return await self._submit(call, relay).wait_on_loop()

    def _explain(self, error: Error) -> Error:
        """Gives an error the Python exception behind it, if it is known."""
        if error.kind == "invalid_handle" and not self._close.alive:
            # Another thread closed the engine after this one had looked.
            return Closed("the engine was closed")
        causes = (host.cause_of(error) for host in self._hosts)
        error.__cause__ = next((cause for cause in causes if cause is not None), None)
        return error


def _close(handle: Any, hosts: list[Host], under_way: set[Relay]) -> None:
    """Closes an engine that nobody closed. The other arguments live until then."""
    if lib.foreturn_engine_free(handle) == lib.FORETURN_ERROR_REENTRANT:
        # The object was dropped inside a callback, perhaps of this engine, which would wait for itself.
        threading.Thread(target=_close, args=(handle, hosts, under_way)).start()
