"""What tools already speak: vLLM's `/score`, `/classify`, `/pooling`, and text-embeddings-inference's `/embed`, `/predict`,
`/rerank`. Requests are those of their documentation; numbers are those that transformers recorded in the fixtures."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import foreturn
from conftest import FIXTURES, checkpoint
from serving import TALK, Server

# A model for each kind of head: one score, classes, a reward, scores of tokens, vectors, and none.
KINDS = {
    "ranker": "deberta-v3-reward", "classes": "bert-labels", "reward": "llama-reward", "tokens": "qwen2-token-labels",
    "embedder": "bert-embedding", "chat": "smollm2",
}
QUERY, DOCUMENT = "What is the capital of France?", "The capital of France is Paris."
CLOSE = 1e-4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for name, fixture in KINDS.items():
        foreturn.export(checkpoint(fixture, folder / f"{name}-checkpoint"), folder / name)
    return {name: folder / name for name in KINDS}


def configured(folders: dict[str, Path], names: Sequence[str], to: Path) -> Path:
    to.write_text("".join(f'[models.{name}]\npath = "{folders[name]}"\n' for name in names))
    return to


@pytest.fixture(scope="module")
def kinds(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All of them."""
    made = Server(configured(folders, list(KINDS), tmp_path_factory.mktemp("all") / "foreturn.toml"))
    Server.started.remove(made)
    yield made
    made.end()


@pytest.fixture(scope="module")
def two(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One model that ranks and one that embeds, so that nobody has to name them."""
    made = Server(configured(folders, ["ranker", "embedder"], tmp_path_factory.mktemp("two") / "foreturn.toml"))
    Server.started.remove(made)
    yield made
    made.end()


def recorded(name: str, case: str) -> Any:
    """What transformers gives."""
    reference = json.loads((FIXTURES / KINDS[name] / "reference.json").read_text(encoding="utf-8"))
    return next(each for each in reference["cases"] if each["name"] == case)


def logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def softmax(logits: Sequence[float]) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(number * number for number in vector))
    return [number / length for number in vector]


# vLLM.


def test_vllm_scores_pairs(kinds: Server) -> None:
    """One query and one document; one and several; one for each. With the names that its versions gave them."""
    pair, text = recorded("ranker", "a pair"), recorded("ranker", "a longer pair")
    assert (pair["text"], pair["pair"]) == (QUERY, DOCUMENT)
    asked: dict[str, Any] = {"model": "ranker", "encoding_format": "float"}
    made = kinds.post("/score", asked | {"queries": QUERY, "documents": DOCUMENT})
    assert {name: made[name] for name in ("object", "model")} == {"object": "list", "model": "ranker"}
    assert made["id"].startswith("score-") and made["created"] > 0
    assert made["data"] == [{"index": 0, "object": "score", "score": pytest.approx(logistic(pair["scores"][0]), abs=CLOSE)}]
    assert made["usage"]["prompt_tokens"] == made["usage"]["total_tokens"] == len(pair["tokens"])
    raw = kinds.post("/score", asked | {"queries": QUERY, "documents": DOCUMENT, "use_activation": False})
    assert raw["data"][0]["score"] == pytest.approx(pair["scores"][0], abs=CLOSE)

    both = {"queries": [QUERY, text["text"]], "documents": [DOCUMENT, text["pair"]]}
    wanted = [logistic(pair["scores"][0]), logistic(text["scores"][0])]
    for one, other in (("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2"), ("queries", "items")):
        for path in ("/score", "/v1/score"):
            made = kinds.post(path, asked | {one: both["queries"], other: both["documents"]})
            assert [each["score"] for each in made["data"]] == pytest.approx(wanted, abs=CLOSE)
    several = kinds.post("/score", asked | {"text_1": QUERY, "text_2": [DOCUMENT, "No."]})["data"]
    assert [each["index"] for each in several] == [0, 1]
    assert several[0]["score"] == pytest.approx(wanted[0], abs=CLOSE)
    status, document, _ = kinds.ask("/score", asked | {"text_1": [QUERY, QUERY], "text_2": [DOCUMENT] * 3})
    assert status == 400 and "2 queries and 3 documents" in document["error"]["message"]


def test_our_scores_keep_their_route(kinds: Server) -> None:
    """`/v1/score` is ours where a request has `messages`."""
    made = kinds.post("/v1/score", {"model": "reward", "messages": TALK})
    assert list(made) == ["model", "scores"]
    status, document, _ = kinds.ask("/v1/score", {"model": "reward"})
    assert status == 400 and "messages" in document["error"]["message"]
    status, document, _ = kinds.ask("/v1/score", {"model": "reward", "messages": TALK, "queries": "a", "documents": "b"})
    assert status == 400 and "queries" in document["error"]["message"]


def test_vllm_compares_embeddings(two: Server) -> None:
    """By their cosine."""
    text = unit(recorded("embedder", "a text")["embedding"])
    status, document, _ = two.ask("/score", {"queries": QUERY, "documents": [QUERY, DOCUMENT]})
    assert status == 400 and "embedder, ranker" in document["error"]["message"], document
    made = two.post("/score", {"model": "embedder", "queries": QUERY, "documents": [QUERY, DOCUMENT]})["data"]
    other = two.post("/pooling", {"model": "embedder", "input": [QUERY, DOCUMENT], "task": "embed"})["data"][1]["data"]
    assert made[0]["score"] == pytest.approx(1, abs=1e-6)
    assert made[1]["score"] == pytest.approx(sum(a * b for a, b in zip(text, other, strict=True)), abs=CLOSE)


def test_vllm_classifies(kinds: Server) -> None:
    wanted = recorded("classes", "a text")
    made = kinds.post("/classify", {"model": "classes", "input": [QUERY, "Hello."]})
    assert made["id"].startswith("classify-") and made["object"] == "list" and len(made["data"]) == 2
    first = made["data"][0]
    assert (first["index"], first["label"], first["num_classes"]) == (0, "entailment", 3)
    assert first["probs"] == pytest.approx(softmax(wanted["scores"]), abs=CLOSE)
    alone = kinds.post("/classify", {"model": "classes", "input": QUERY, "use_activation": False})["data"]
    assert [each["probs"] for each in alone] == [pytest.approx(wanted["scores"], abs=CLOSE)]
    # As verl asks a reward model: tokens, and the logit.
    tokens = recorded("reward", "23 tokens")
    made = kinds.post("/classify", {"model": "reward", "input": tokens["tokens"], "use_activation": False})
    assert made["data"][-1]["probs"][-1] == pytest.approx(tokens["scores"][0], abs=CLOSE)
    talk = recorded("reward", "one turn")
    made = kinds.post("/classify", {"model": "reward", "messages": talk["messages"]})
    assert made["data"][0]["probs"] == [pytest.approx(logistic(talk["scores"][0]), abs=CLOSE)]


def test_vllm_pools(kinds: Server) -> None:
    """Vectors, classes, and scores of tokens."""
    wanted = recorded("embedder", "a text")["embedding"]
    asked = {"model": "embedder", "input": [QUERY], "task": "embed"}
    made = kinds.post("/pooling", asked)
    assert made["id"].startswith("pool-") and made["data"][0]["object"] == "pooling"
    assert made["data"][0]["data"] == pytest.approx(unit(wanted), abs=CLOSE)
    packed = base64.b64decode(kinds.post("/pooling", asked | {"encoding_format": "base64"})["data"][0]["data"])
    assert list(struct.unpack(f"<{len(wanted)}f", packed)) == pytest.approx(made["data"][0]["data"], abs=1e-6)
    classes = kinds.post("/pooling", {"model": "classes", "input": QUERY})["data"][0]["data"]
    assert classes == pytest.approx(softmax(recorded("classes", "a text")["scores"]), abs=CLOSE)
    tokens = recorded("tokens", "5 tokens")
    asked = {"model": "tokens", "input": tokens["tokens"], "task": "token_classify"}
    rows = kinds.post("/pooling", asked | {"use_activation": False})["data"][0]["data"]
    assert rows == [pytest.approx(row, abs=CLOSE) for row in tokens["scores"]]
    rows = kinds.post("/pooling", asked)["data"][0]["data"]
    assert rows == [pytest.approx(softmax(row), abs=CLOSE) for row in tokens["scores"]]


@pytest.mark.parametrize(("path", "body", "status", "says"), [
    ("/score", {"model": "chat", "queries": "a", "documents": "b"}, 400, "`chat` is not one that gives embeddings"),
    ("/score", {"model": "classes", "queries": "a", "documents": "b"}, 400, "has a single score"),
    ("/score", {"model": "nobody", "queries": "a", "documents": "b"}, 404, "nobody"),
    ("/score", {"model": "ranker", "queries": [], "documents": []}, 400, "0 queries"),
    ("/score", {"model": "ranker", "queries": [{"type": "image_url"}], "documents": "b"}, 400, "a list of texts"),
    ("/score", {"model": "ranker", "queries": "a", "documents": "b", "mm_processor_kwargs": {"x": 1}}, 400, "mm_processor"),
    ("/classify", {"model": "embedder", "input": "a"}, 400, "`embedder` is not one that scores whole texts"),
    ("/classify", {"model": "tokens", "input": "a"}, 400, "scores whole texts"),
    ("/classify", {"model": "classes", "input": []}, 400, "input is empty"),
    ("/classify", {"model": "classes"}, 400, "either input or messages"),
    ("/classify", {"model": "classes", "input": "a", "messages": TALK}, 400, "either input or messages"),
    ("/classify", {"model": "classes", "input": "a", "truncate_prompt_tokens": 3}, 400, "truncate_prompt_tokens = 3"),
    ("/classify", {"model": "classes", "input": "a " * 5000}, 400, "tokens"),
    ("/classify", {"model": "classes", "input": "a " * 200, "truncate_prompt_tokens": -1}, 400, "cuts no text"),
    ("/classify", {"model": "classes", "input": [100000]}, 400, "100000"),
    ("/pooling", {"model": "chat", "input": "a"}, 400, "has a head"),
    ("/pooling", {"model": "embedder", "input": "a", "task": "classify"}, 400, "task \"embed\""),
    ("/pooling", {"model": "classes", "input": "a", "task": "token_classify"}, 400, "task \"classify\""),
    ("/pooling", {"model": "embedder", "input": "a", "dimensions": 2}, 400, "dimensions = 2"),
    ("/pooling", {"model": "embedder", "input": "a", "use_activation": False}, 400, "length 1"),
    ("/pooling", {"model": "tokens", "input": "a", "encoding_format": "base64"}, 400, "base64"),
])
def test_vllms_callers_hear_what_is_wrong(kinds: Server, path: str, body: Any, status: int, says: str) -> None:
    """In OpenAI's shape, as theirs."""
    got, document, _ = kinds.ask(path, body)
    assert got == status and says in document["error"]["message"], document
    assert document["error"]["code"] == status and document["error"]["type"]


def test_openai_embeds_tokens(two: Server) -> None:
    """As its reference says of `input`: a text, tokens, or a list of either."""
    case = recorded("embedder", "a text")
    made = two.post("/v1/embeddings", {"model": "embedder", "input": [case["tokens"], QUERY]})["data"]
    assert made[0]["embedding"] == made[1]["embedding"] == pytest.approx(unit(case["embedding"]), abs=CLOSE)


# text-embeddings-inference.


def test_tei_embeds(two: Server) -> None:
    """Hugging Face's client is its client."""
    wanted = unit(recorded("embedder", "a text")["embedding"])
    assert two.post("/embed", {"inputs": QUERY}) == [pytest.approx(wanted, abs=CLOSE)]
    several = two.post("/embed", {"inputs": [QUERY, recorded("embedder", "a text")["tokens"]], "truncate": True})
    assert several[0] == several[1] == pytest.approx(wanted, abs=CLOSE)
    client = huggingface_hub.InferenceClient(model=f"http://{two.address}/embed", token="none")
    made = client.feature_extraction(QUERY, normalize=True, truncate=True, truncation_direction="right")
    assert made.tolist() == [pytest.approx(wanted, abs=CLOSE)]
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="prompt_name"):
        client.feature_extraction(QUERY, prompt_name="query")


def test_tei_predicts(kinds: Server) -> None:
    """The best label first; one text, a pair, or several."""
    text, pair = recorded("classes", "a text"), recorded("classes", "a pair")
    labels = ["contradiction", "entailment", "neutral"]

    def ordered(scores: Sequence[float]) -> list[Any]:
        best = sorted(zip(labels, scores, strict=True), key=lambda each: -each[1])
        return [{"label": label, "score": pytest.approx(score, abs=CLOSE)} for label, score in best]

    path = "/predict?model=classes"
    assert kinds.post(path, {"inputs": QUERY}) == ordered(softmax(text["scores"]))
    assert kinds.post(path, {"inputs": QUERY, "raw_scores": True}) == ordered(text["scores"])
    assert kinds.post(path, {"inputs": [QUERY, DOCUMENT]}) == ordered(softmax(pair["scores"]))
    several = kinds.post(path, {"inputs": [[QUERY], [QUERY, DOCUMENT]]})
    assert several == [ordered(softmax(text["scores"])), ordered(softmax(pair["scores"]))]
    assert kinds.post("/predict?model=ranker", {"inputs": [[QUERY, DOCUMENT]]}) == [
        [{"label": "LABEL_0", "score": pytest.approx(logistic(recorded("ranker", "a pair")["scores"][0]), abs=CLOSE)}]
    ]
    client = huggingface_hub.InferenceClient(model=f"http://{kinds.address}{path}", token="none")
    made: Any = client.text_classification(QUERY)
    best = ordered(softmax(text["scores"]))[0]
    assert (made.label, made.score) == (best["label"], best["score"]), "of a flat list the client takes the first"


def test_tei_ranks(two: Server) -> None:
    longer = recorded("ranker", "a longer pair")["text"]
    wanted = logistic(recorded("ranker", "a pair")["scores"][0])
    made = two.post("/rerank", {"query": QUERY, "texts": [longer, DOCUMENT], "return_text": True})
    assert sorted(each["index"] for each in made) == [0, 1]
    assert [each["score"] for each in made] == sorted((each["score"] for each in made), reverse=True)
    assert {each["index"]: each["text"] for each in made} == {0: longer, 1: DOCUMENT}
    assert next(each["score"] for each in made if each["index"] == 1) == pytest.approx(wanted, abs=CLOSE)
    raw = two.post("/rerank", {"query": QUERY, "texts": [DOCUMENT], "raw_scores": True})
    assert raw == [{"index": 0, "score": pytest.approx(recorded("ranker", "a pair")["scores"][0], abs=CLOSE)}]


@pytest.mark.parametrize(("path", "body", "status", "kind", "says"), [
    ("/embed", {"inputs": "a"}, 200, "", ""),
    ("/embed?model=classes", {"inputs": "a"}, 424, "Backend", "`classes` is not one that gives embeddings"),
    ("/embed?model=nobody", {"inputs": "a"}, 404, "Validation", "nobody"),
    ("/embed?colour=red", {"inputs": "a"}, 422, "Validation", "?model=NAME"),
    ("/embed", {"inputs": []}, 422, "Validation", "inputs is empty"),
    ("/embed", {"input": "a"}, 422, "Validation", "inputs"),
    ("/embed", {"inputs": "a " * 200, "truncate": True}, 413, "Validation", "cuts no text"),
    ("/embed", {"inputs": "a", "normalize": False}, 422, "Validation", "length 1"),
    ("/embed", {"inputs": "a", "dimensions": 3}, 422, "Validation", "dimensions = 3"),
    ("/predict", {"inputs": "a"}, 422, "Validation", "more than one scores whole texts: classes, ranker, reward"),
    ("/predict?model=embedder", {"inputs": "a"}, 424, "Backend", "scores whole texts"),
    ("/predict?model=classes", {"inputs": ["a", "b", "c"]}, 422, "Validation", "3 texts"),
    ("/predict?model=classes", {"inputs": []}, 422, "Validation", "0 texts"),
    ("/predict?model=classes", {"inputs": "a", "parameters": {"top_k": 2}}, 422, "Validation", "parameters.top_k = 2"),
    ("/rerank?model=classes", {"query": "a", "texts": ["b"]}, 424, "Backend", "single score"),
    ("/rerank?model=ranker", {"query": "a", "texts": []}, 422, "Validation", "texts is empty"),
    ("/rerank?model=ranker", {"query": "a", "documents": ["b"]}, 422, "Validation", "documents"),
    ("/rerank?model=ranker", b"{", 422, "Validation", "body"),
    ("/rerank?model=ranker", b" " * (17 << 20), 413, "Validation", "--max-body"),
    ("/rerank?model=ranker", None, 405, "Validation", "GET"),
])
def test_teis_callers_hear_what_is_wrong(kinds: Server, path: str, body: Any, status: int, kind: str, says: str) -> None:
    """In its own shape."""
    got, document, _ = kinds.ask(path, body)
    assert got == status, document
    if status != 200:
        assert document == {"error": document["error"], "error_type": kind} and says in document["error"]
