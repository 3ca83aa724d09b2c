"""Multiturn-aware rewards: scores a language model's response by where it leads the conversation, in process.

    import foreturn

    with foreturn.Engine("foreturn.toml") as engine:
        ranking = engine.rank({
            "conversation": [{"role": "user", "content": "Write a poem."}],
            "candidates": ["What should it be about?", "Roses are red, violets are blue."],
        })
    print(ranking.best.response, ranking.best.reward, ranking.best.std_error)

docs/python.md of the project is the guide.
"""

from ._callbacks import ChatModel, ChatModelLike, ChatReply, ChatRequest, Metric, MetricInput, MetricLike, Reply
from ._engine import Engine
from ._errors import (
    Cancelled,
    Closed,
    ContextLength,
    DeadlineExceeded,
    Error,
    FileError,
    Forked,
    Internal,
    InvalidArgument,
    InvalidConfig,
    InvalidModel,
    InvalidRequest,
    MemoryBudget,
    ModelOutput,
    Overloaded,
    Reentrant,
    RuntimeMissing,
    Unsupported,
)
from ._evaluate import evaluate, sweep
from ._export import export
from ._native import version as __version__
from ._pin import Pin, PinnedReply
from ._requests import Conversation, Message, MessageLike, RankRequest, ScoreInput, Tokens
from ._results import (
    Candidate,
    EndedRollout,
    Export,
    Generation,
    Interim,
    Latency,
    LogProbs,
    MetricSummary,
    Ranking,
    Rollout,
    Score,
    Statistics,
)
from ._runs import dataset_export
from ._server import Server

__all__ = [
    "Cancelled", "Candidate", "ChatModel", "ChatModelLike", "ChatReply", "ChatRequest", "Closed", "ContextLength",
    "Conversation", "DeadlineExceeded", "EndedRollout", "Engine", "Error", "Export", "FileError", "Forked", "Generation",
    "Interim", "Internal", "InvalidArgument", "InvalidConfig", "InvalidModel", "InvalidRequest", "Latency", "LogProbs",
    "MemoryBudget", "Message", "MessageLike", "Metric", "MetricInput", "MetricLike", "MetricSummary", "ModelOutput",
    "Overloaded", "Pin", "PinnedReply", "RankRequest", "Ranking", "Reentrant", "Reply", "Rollout", "RuntimeMissing", "Score",
    "ScoreInput", "Server", "Statistics", "Tokens", "Unsupported", "__version__", "dataset_export", "evaluate", "export",
    "sweep",
]
