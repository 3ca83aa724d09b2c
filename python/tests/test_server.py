"""`foreturn serve`: our routes, OpenAI's client, and what goes wrong. The models are tiny, the server is the wheel's command."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import pickle
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import openai
import pytest

import foreturn
from foreturn.trl import MultiturnReward
from serving import REQUEST, TALK, Server, active, counted, eventually, without_time


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none", max_retries=0)


def test_rankings_are_those_of_the_library(server: Server, engine: foreturn.Engine) -> None:
    wanted = engine.rank(REQUEST)
    assert without_time(server.post("/v1/rank", REQUEST)) == without_time(wanted.to_dict())
    again = server.post("/v1/rescore", {"request": REQUEST, "ranking": wanted.to_dict()})
    assert [each["reward"] for each in again["ranking"]] == [each.reward for each in wanted]


def test_rollouts_come_as_they_end(server: Server, engine: foreturn.Engine) -> None:
    text = server.post("/v1/rank", REQUEST, Accept="text/event-stream")
    events = [event.split("\n") for event in text.split("\n\n") if event]
    assert [event[0] for event in events] == ["event: rollout"] * 4 + ["event: ranking"]
    ranking = json.loads(events[-1][1].removeprefix("data: "))
    assert without_time(ranking) == without_time(engine.rank(REQUEST).to_dict())


def test_scores_are_those_of_the_library(server: Server, engine: foreturn.Engine) -> None:
    made = server.post("/v1/score", {"model": "reward", "messages": TALK})["scores"]
    assert [each["values"] for each in made] == [list(engine.score("reward", TALK).scores)]
    made = server.post("/v1/score", {"model": "reward", "messages": TALK[:1], "candidates": ["Yes.", "No."]})["scores"]
    chats = [[*TALK[:1], {"role": "assistant", "content": reply}] for reply in ("Yes.", "No.")]
    assert [each["values"] for each in made] == [list(each.scores) for each in engine.score("reward", chats)]
    made = server.post("/v1/score", {"model": "chat", "messages": TALK, "task": "response"})["scores"]
    assert made[0]["values"] == [engine.score("chat", TALK, task="response").logprob]
    read = server.post("/v1/logprobs", {"model": "chat", "messages": TALK})
    assert read["logprobs"] == pytest.approx(list(engine.logprobs("chat", TALK).logprobs), rel=1e-7)


def test_prefixes_are_kept_and_released(server: Server) -> None:
    pin = server.post("/v1/warm", {"model": "chat", "messages": TALK, "keep": 60})
    assert pin["tokens"] > 0
    status, document, _ = server.ask(f"/v1/warm/{pin['pin']}", method="DELETE")
    assert (status, document) == (200, {"released": pin["tokens"]})
    assert server.ask(f"/v1/warm/{pin['pin']}", method="DELETE")[0] == 404
    assert server.ask("/v1/warm", {"model": "chat", "messages": TALK, "keep": 0})[0] == 400


def test_a_prefix_is_released_when_its_time_is_over(server: Server) -> None:
    def is_over() -> bool:
        pin = server.post("/v1/warm", {"model": "chat", "messages": TALK, "keep": 0.05})["pin"]
        time.sleep(0.2)
        return server.ask(f"/v1/warm/{pin}", method="DELETE")[0] == 404

    eventually(is_over)


def test_weights_are_exchanged(config: Path, models: dict[str, Path]) -> None:
    own = Server(config)
    asked = {"model": "chat", "folder": str(models["chat"]), "version": "step-1", "shared": True}
    assert own.post("/v1/refresh", asked) == {"model": "chat", "version": "step-1"}
    assert "step-1" in json.dumps(own.post("/v1/rank", REQUEST))
    status, document, _ = own.ask("/v1/refresh", asked | {"folder": "/nowhere"})
    assert (status, document["error"]["type"]) == (400, "invalid_model"), document


def test_openai_talks(server: Server, client: openai.OpenAI, engine: foreturn.Engine) -> None:
    wanted = engine.generate("chat", TALK[:1], max_tokens=12, seed=5, temperature=0.8)
    asked: dict[str, Any] = {"model": "chat", "messages": TALK[:1], "max_tokens": 12, "seed": 5, "temperature": 0.8}
    made = client.chat.completions.create(**asked, logprobs=True)
    choice = made.choices[0]
    assert choice.message.content == wanted.text
    assert choice.logprobs and choice.logprobs.content
    assert [each.logprob for each in choice.logprobs.content] == pytest.approx(list(wanted.logprobs), rel=1e-6)
    assert made.usage and made.usage.completion_tokens == len(wanted.tokens)
    assert choice.finish_reason == "length"

    stream = client.chat.completions.create(**asked, logprobs=True, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    pieces = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices and chunk.choices[0].logprobs]
    assert [each for piece in pieces for each in piece or ()] == choice.logprobs.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == wanted.text
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == len(wanted.tokens)
    assert sorted(model.id for model in client.models.list()) == ["chat", "embedder", "reward", "steps"]


def test_openai_embeds(client: openai.OpenAI, engine: foreturn.Engine) -> None:
    """Its client asks for base64 by itself."""
    made = client.embeddings.create(model="embedder", input=["Hi", "A poem."])
    for each, wanted in zip(made.data, engine.embed("embedder", ["Hi", "A poem."]), strict=True):
        assert each.embedding == pytest.approx(list(wanted), rel=1e-6)
    plain = client.embeddings.create(model="embedder", input="Hi", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(made.data[0].embedding, rel=1e-6)


def test_schemas_hold(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    made = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "Hi"}], max_tokens=64, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
    )
    assert isinstance(json.loads(made.choices[0].message.content or "")["ok"], bool)


def test_openai_hears_what_is_wrong(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(model="nobody", messages=messages)
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        client.chat.completions.create(model="chat", messages=messages, logit_bias={"1": 5})
    nulls: Any = {"n": None, "presence_penalty": None, "logprobs": None, "stream": None, "tools": None}
    said: Any = [*messages, {"role": "assistant", "content": "Hello.", "refusal": None, "tool_calls": None}, *messages]
    assert client.chat.completions.create(model="chat", messages=said, max_tokens=2, extra_body=nulls).choices
    with pytest.raises(openai.BadRequestError, match="n = 2"):
        client.chat.completions.create(model="chat", messages=messages, n=2)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="chat", messages=messages, temperature=-1)
    with pytest.raises(openai.BadRequestError, match="image_url"):
        part: Any = {"type": "image_url", "image_url": {"url": "x"}}
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": [part]}])


def test_trainers_are_answered(server: Server, engine: foreturn.Engine) -> None:
    label = json.dumps({"messages": REQUEST["conversation"], "goal": REQUEST["goal"]})
    asked = {"query": ["<p>Roses.<|im_end|>\n", "<p>What?"], "prompts": ["<p>", "<p>"], "labels": [label, label]}
    made = server.post("/openrlhf", asked)
    assert len(made["rewards"]) == 2 and made["scores"] == made["rewards"]
    assert set(made["extra_logs"]) == {"std_error", "tokens"}
    alone = server.post("/slime", {"prompt": "<p>", "response": "Roses.", "label": label})
    assert alone == made["rewards"][0], "a response's reward does not depend on its neighbours"
    status, document, _ = server.ask("/openrlhf", asked | {"prompts": ["<q>", "<p>"]})
    assert status == 400 and "does not begin with its prompt" in document["error"]["message"]


def test_eight_processes_get_one_processs_rewards(server: Server, engine: foreturn.Engine) -> None:
    requests = [REQUEST | {"seed": seed} for seed in range(16)]
    with concurrent.futures.ProcessPoolExecutor(8) as pool:
        made = list(pool.map(ask_alone, [server.address] * 16, requests))
    for request, ranking in zip(requests, made, strict=True):
        assert without_time(ranking) == without_time(engine.rank(request).to_dict())


def ask_alone(address: str, request: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", "/v1/rank", json.dumps(request))
    return json.loads(connection.getresponse().read())


def test_who_hangs_up_frees_its_place(server: Server) -> None:
    """In the middle of a ranking, of a stream, of a header, of a body."""
    long = json.dumps(REQUEST | {"samples": 200, "window": 8}).encode()
    head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(long)}\r\n"
    for sent in (
        head.encode() + b"\r\n" + long,
        head.encode() + b"Accept: text/event-stream\r\n\r\n" + long,
        head.encode() + b"\r\n" + long[:20],
        head.encode(),
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
            if sent.endswith(long):
                eventually(lambda: active(server) > 0)
    eventually(lambda: counted(server, "foreturn_cancelled_total") >= 2)
    eventually(lambda: active(server) == 0)
    assert server.post("/v1/rank", REQUEST)


def test_deadlines_and_mistakes_are_answered(server: Server) -> None:
    status, document, _ = server.ask("/v1/rank", REQUEST | {"samples": 100, "window": 8}, x_timeout="0.000001")
    assert status == 504 and document["error"]["type"] == "deadline_exceeded", document
    assert server.ask("/v1/rank", REQUEST, x_timeout="soon")[0] == 400
    assert server.ask("/v1/rank", REQUEST, x_priority="high")[0] == 400
    for body in (b"", b"{", b"[]", b'{"conversation": 1}', b"\xff\xfe", json.dumps(REQUEST | {"colour": 1}).encode()):
        status, document, _ = server.ask("/v1/rank", body)
        assert status == 400 and document["error"]["message"], body
    assert server.ask("/v2/rank", REQUEST)[0] == 404
    assert server.ask("/v1/rank")[0] == 405
    assert server.ask("/v1/rank", b" " * (17 << 20))[0] == 413
    assert server.ask("/health")[0] == server.ask("/ready")[0] == 200


def test_a_full_queue_refuses(tmp_path: Path, config: Path) -> None:
    file = tmp_path / "foreturn.toml"
    file.write_text(config.read_text() + "[runtime]\nmax_queued = 1\n")
    own = Server(file)
    long = REQUEST | {"samples": 100, "window": 8}
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        made = list(pool.map(lambda _: own.ask("/v1/rank", long, x_timeout="3"), range(32)))
    refused = [answer for status, _, answer in made if status == 429]
    assert refused and all(answer.headers["retry-after"] == "1" for answer in refused), [status for status, *_ in made]
    own.end()


def test_keys_are_asked_for(config: Path, tmp_path: Path, run: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of the trainer\na key of enough characters\n")
    own = Server(config, "--keys", str(keys))
    assert own.ask("/v1/rank", REQUEST)[0] == own.ask("/metrics")[0] == 401
    assert own.ask("/v1/rank", REQUEST, Authorization="Bearer another key of 16 characters")[0] == 401
    assert own.ask("/v1/rank", REQUEST, Authorization="Bearer a key of enough characters")[0] == 200
    assert own.ask("/health")[0] == 200
    own.end()
    assert not any("enough" in line or "poem" in line for line in own.lines), "logs have neither keys nor contents"
    assert any('"path":"/v1/rank"' in line and '"status":200' in line for line in own.lines)
    ended = run("-m", "foreturn", "serve", "--config", str(config), "--listen", "0.0.0.0:0")
    assert ended.returncode == 1 and "--keys" in ended.stderr


def test_each_request_has_one_line_in_the_log(config: Path) -> None:
    """With the number and the status that its caller got. That of a stream says how the stream ended."""
    own = Server(config)
    events = {"Accept": "text/event-stream"}
    long = REQUEST | {"samples": 200, "window": 8}
    asked = [
        own.ask("/v1/rank", REQUEST), own.ask("/v1/rank", {}), own.ask("/v1/nothing", {}), own.ask("/v1/rank"), own.ask("/health"),
        own.ask("/v1/rank", REQUEST, **events), own.ask("/v1/rank", long, x_timeout="0.000001", **events),
    ]
    assert "deadline_exceeded" in asked[-1][1]
    left = http.client.HTTPConnection(own.address, timeout=60)
    left.request("POST", "/v1/rank", json.dumps(long | {"samples": 1000}), events)
    answer = left.getresponse()
    answer.read(1)
    left.close()
    answer.close()
    eventually(lambda: active(own) == 0)
    counted_here = own.ask("/metrics")[2].headers["x-request-id"]
    assert own.end() == 0
    lines = [json.loads(line) for line in own.lines if line.startswith("{")]
    numbers = [line["request"] for line in lines]
    assert len(set(numbers)) == len(numbers) and int(counted_here) in numbers
    of = {line["request"]: line for line in lines}
    for status, _, got in asked:
        assert of[int(got.headers["x-request-id"])]["status"] == status
    whole, failed = (of[int(got.headers["x-request-id"])] for *_, got in asked[-2:])
    assert "error" not in whole and failed["error"] == "deadline_exceeded"
    assert of[int(answer.headers["x-request-id"])]["status"] == 499


PLACES = 16
"""Rankings that run at the same time; others wait."""


def test_a_server_ends_in_order(config: Path) -> None:
    """What runs is finished, what waits or comes then is refused, and the grace has an end."""
    own = Server(config)
    other = http.client.HTTPConnection(own.address, timeout=60)
    other.request("GET", "/ready")
    assert other.getresponse().read()
    with concurrent.futures.ThreadPoolExecutor(PLACES + 3) as pool:
        asked = [pool.submit(own.ask, "/v1/rank", REQUEST | {"samples": 40, "window": 8}) for _ in range(PLACES + 3)]
        eventually(lambda: active(own) == PLACES and counted(own, 'foreturn_queued{kind="rankings"}') == 3)
        own.process.send_signal(signal.SIGTERM)
        eventually(lambda: any("ending" in line for line in own.lines))
        eventually(lambda: sum(answer.done() for answer in asked) >= 3)
        waited = [answer.result() for answer in asked if answer.done()]
        assert len(waited) == 3, "the rankings were too short to show anything"
        assert all(status == 503 and refused["error"]["type"] == "closed" for status, refused, _ in waited)
        assert own.process.poll() is None
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            other.request("GET", "/ready")
            other.getresponse()
        answers = [answer.result() for answer in asked]
        assert sum(status == 200 and ranking["complete"] for status, ranking, _ in answers) == PLACES
    assert own.process.wait(60) == 0

    hasty = Server(config, "--grace", "1s")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        under_way = pool.submit(hasty.ask, "/v1/rank", REQUEST | {"samples": 1000, "window": 8})
        eventually(lambda: active(hasty) > 0)
        assert hasty.end() == 0
        assert under_way.result()[0] in (200, 503), "an answer was written: what is finished, or that it ended"


def test_a_socket_is_this_users_and_nothing_else_is_removed(config: Path, tmp_path: Path, run: Any) -> None:
    path = tmp_path / "it.sock"
    own = Server(config, "--listen", f"unix:{path}")
    assert oct(os.stat(path).st_mode & 0o777) == "0o600"
    assert foreturn.Server(f"unix:{path}").rank(REQUEST).complete
    ended = run("-m", "foreturn", "serve", "--config", str(config), "--listen", f"unix:{path}")
    assert ended.returncode == 1 and "in use" in ended.stderr or "exists" in ended.stderr, ended.stderr
    assert own.end() == 0 and not path.exists()
    kept = tmp_path / "kept.toml"
    kept.write_text("precious")
    ended = run("-m", "foreturn", "serve", "--config", str(config), "--listen", f"unix:{kept}")
    assert ended.returncode == 1 and kept.read_text() == "precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept.toml"]


def test_a_killed_servers_socket_is_taken_over(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "it.sock"
    first = Server(config, "--listen", f"unix:{path}")
    first.end(signal.SIGKILL)
    assert path.exists()
    second = Server(config, "--listen", f"unix:{path}")
    assert second.end() == 0


def test_a_server_takes_the_place_of_an_engine(server: Server, engine: foreturn.Engine, config: Path) -> None:
    """Rewards for trainers get the same numbers from it, also in processes that they were pickled to."""
    remote = foreturn.Server(f"http://{server.address}")
    assert without_time(remote.rank(REQUEST).to_dict()) == without_time(engine.rank(REQUEST).to_dict())
    prompts, completions, goals = [TALK[:1]] * 4, ["Hi.", "What?", "Roses are red.", "No."], ["a poem"] * 4
    wanted = MultiturnReward(engine, goal="goal")(prompts, completions, goal=goals)
    reward = MultiturnReward(f"http://{server.address}", goal="goal")
    assert reward(prompts, completions, goal=goals) == wanted
    assert pickle.loads(pickle.dumps(reward))(prompts, completions, goal=goals) == wanted


def test_a_servers_failures_are_the_librarys(server: Server, tmp_path: Path) -> None:
    remote = foreturn.Server(f"http://{server.address}")
    with pytest.raises(foreturn.InvalidRequest, match="colour"):
        remote.rank(REQUEST | {"colour": "red"})
    with pytest.raises(foreturn.DeadlineExceeded):
        remote.rank(REQUEST | {"samples": 100, "window": 8}, timeout=1e-6)
    assert isinstance(remote.rank_many([REQUEST, {"conversation": []}], "return")[1], foreturn.InvalidRequest)
    with pytest.raises(foreturn.FileError, match="can't be reached"):
        foreturn.Server(f"unix:{tmp_path}/nothing.sock").rank(REQUEST)
    for wrong in ("localhost:8080", "http:localhost:8080", "http://host/prefix", "http://[bad", "unix:", "ftp://host"):
        with pytest.raises(foreturn.InvalidArgument, match="not the address"):
            foreturn.Server(wrong)
    with pytest.raises(foreturn.InvalidArgument, match="does not get the trainer's weights"):
        MultiturnReward(f"http://{server.address}", refresh="chat")


def test_a_server_waits_for_places(config: Path, tmp_path: Path) -> None:
    """`rank_many` is not refused where the queue is full, as with an engine."""
    file = tmp_path / "foreturn.toml"
    file.write_text(config.read_text() + "[runtime]\nmax_queued = 1\n")
    path = tmp_path / "it.sock"
    own = Server(file, "--listen", f"unix:{path}")
    long = [REQUEST | {"seed": seed, "samples": 20, "window": 4} for seed in range(40)]
    made = foreturn.Server(f"unix:{path}").rank_many(long)
    assert [ranking.complete for ranking in made] == [True] * 40
    connection = foreturn._server._connection(("unix", str(path)))
    connection.request("GET", "/metrics")
    refused = re.search(rb"^foreturn_refused_total (\S+)$", connection.getresponse().read(), re.MULTILINE)
    assert refused and float(refused[1]) > 0, "the queue was never full"


def test_trainers_wait_for_places(config: Path, tmp_path: Path) -> None:
    """OpenRLHF would go on without the rewards that it is refused."""
    file = tmp_path / "foreturn.toml"
    file.write_text(config.read_text() + "[runtime]\nmax_queued = 1\n")
    own = Server(file)
    label = json.dumps({"messages": REQUEST["conversation"]})
    rows = 80
    made = own.post("/openrlhf", {"query": ["<p>Roses."] * rows, "prompts": ["<p>"] * rows, "labels": [label] * rows})
    assert len(made["rewards"]) == rows
    assert counted(own, "foreturn_refused_total") > 0


def test_a_forked_child_has_a_connection_of_its_own(server: Server) -> None:
    remote = foreturn.Server(f"http://{server.address}")
    wanted = without_time(remote.rank(REQUEST).to_dict())
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            mine = remote.rank(REQUEST | {"seed": 3})
            os._exit(0 if without_time(mine.to_dict()) == wanted else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_a_batch_ends_with_its_first_failure(server: Server) -> None:
    """What is under way is cancelled at the server, and a server that is gone belongs to all of it."""
    remote = foreturn.Server(f"http://{server.address}")
    long = REQUEST | {"samples": 1000, "window": 8}
    with pytest.raises(foreturn.InvalidRequest):
        remote.rank_many([long, {"conversation": []}, long])
    eventually(lambda: active(server) == 0)
    with pytest.raises(foreturn.FileError, match="can't be reached"):
        foreturn.Server("http://127.0.0.1:9").rank_many([REQUEST, REQUEST], "return")


def test_pages_of_a_browser_are_refused(server: Server) -> None:
    assert server.ask("/v1/rank", REQUEST, Origin="https://somewhere.example")[0] == 403
