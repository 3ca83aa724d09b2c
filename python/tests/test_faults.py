"""What callers and machines do to a server: hang-ups at every byte, thousands of idle connections, bodies of a gigabyte, slow
readers, malformed HTTP, full disks, a full queue. The answer is clear or the connection closed, nothing else is harmed, and
memory stays flat."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import foreturn
from foreturn._reward_log import RewardLog
from foreturn._rewards import Outcome
from serving import REQUEST, TALK, Server, active, eventually, without_time

MIB = 1 << 20


def connect(server: Server) -> socket.socket:
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def reset(connection: socket.socket) -> None:
    """Closes it as a process does that is killed: without a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def raw(path: str, body: Any, *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes. A connection that is reset ends, too."""
    read = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(MIB):
            read += piece
    return read


def resident(server: Server) -> float:
    """Memory in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def open_files(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.fixture
def unharmed(server: Server) -> Iterator[Server]:
    """A server that gives the same ranking after the test as before, has let go of every connection, and has not grown."""
    wanted = without_time(server.post("/v1/rank", REQUEST))
    files, memory = open_files(server), resident(server)
    yield server
    eventually(lambda: active(server) == 0)
    eventually(lambda: open_files(server) <= files + 2)
    assert without_time(server.post("/v1/rank", REQUEST)) == wanted
    assert resident(server) < memory + 48


def test_hang_ups_at_every_byte_of_a_request(unharmed: Server) -> None:
    """Half of them without a goodbye."""
    for whole in (raw("/v1/rank", REQUEST), raw("/v1/rank", REQUEST, "Accept: text/event-stream"), raw("/embed", {"inputs": "a"})):
        for cut in range(len(whole) + 1):
            connection = connect(unharmed)
            connection.sendall(whole[:cut])
            reset(connection) if cut % 2 else connection.close()


def test_hang_ups_at_every_piece_of_an_answer(unharmed: Server) -> None:
    stream = {"model": "chat", "messages": TALK[:1], "max_tokens": 400, "seed": 1, "stream": True}
    for whole in (raw("/v1/rank", REQUEST | {"samples": 4}, "Accept: text/event-stream"), raw("/v1/chat/completions", stream)):
        for size in (1, 20, 200, 500, 1000, 2000, 5000):
            for hang_up in (reset, socket.socket.close):
                with connect(unharmed) as connection:
                    connection.sendall(whole)
                    assert connection.recv(size, socket.MSG_WAITALL).startswith(b"HTTP/1.1 200"[:size])
                    hang_up(connection)


def idling(server: Server, kind: int) -> socket.socket:
    connection = connect(server)
    if kind == 1:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: ")
    elif kind == 2:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
    return connection


def test_ten_thousand_idle_connections(config: Path) -> None:
    """As many as this process may have open. A third says nothing, one has begun a header, one has been answered. When they
    have gone, their memory serves the next ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 300)
    assert count >= 500, "the limit of open files is too low to show anything"
    own = Server(config)
    files, memory = open_files(own), [resident(own)]
    try:
        for _ in range(2):
            idle = [idling(own, number % 3) for number in range(count)]
            assert own.post("/v1/rank", REQUEST)["complete"]
            memory.append(resident(own))
            for connection in idle:
                connection.close()
            eventually(lambda: open_files(own) <= files + 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # The allocator keeps what it got, in pieces, so the second time takes a little more.
    assert memory[1] < 512 and memory[2] - memory[1] < 0.5 * (memory[1] - memory[0]), memory
    assert own.end() == 0


def test_more_connections_than_files(config: Path) -> None:
    """Who comes too late waits until others have gone, and nobody else notices."""
    own = Server(config, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)))
    kept = http.client.HTTPConnection(own.address, timeout=60)
    kept.request("GET", "/health")
    assert kept.getresponse().read()
    many = [connect(own) for _ in range(200)]
    kept.request("POST", "/v1/rank", json.dumps(REQUEST))
    assert json.loads(kept.getresponse().read())["complete"]
    assert own.process.poll() is None and any("not accepted" in line for line in own.lines)
    for connection in many:
        connection.close()
    eventually(lambda: own.ask("/health")[0] == 200)
    assert own.end() == 0


def test_bodies_of_a_gigabyte(unharmed: Server) -> None:
    """They are refused at once where the size is stated, and where it is not, once they are too large."""
    gigabyte = 1 << 30
    for stated in (True, False):
        with connect(unharmed) as connection:
            size = f"Content-Length: {gigabyte}" if stated else "Transfer-Encoding: chunked"
            connection.sendall(f"POST /v1/rank HTTP/1.1\r\nHost: x\r\n{size}\r\n\r\n".encode())
            piece = b" " * MIB if stated else f"{MIB:x}\r\n".encode() + b" " * MIB + b"\r\n"
            sent = 0
            start = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while sent < gigabyte:
                    connection.sendall(piece)
                    sent += MIB
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 413") or (not answer and sent < gigabyte), answer[:200]
            assert sent <= 128 * MIB and time.monotonic() - start < 30, "most of it was never taken"
    status, document, _ = unharmed.ask("/v1/rank", b" " * (17 * MIB))
    assert status == 413 and "--max-body" in document["error"]["message"]


def test_bodies_that_never_end_have_a_bound_together(config: Path) -> None:
    """16 of the largest ones."""
    own = Server(config, "--max-body", "1MiB")
    before = resident(own)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(own)) for _ in range(64)]
        for connection in slow:
            connection.sendall(f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {MIB}\r\n\r\n".encode())
            connection.sendall(b" " * (MIB - 1))

        def answered() -> list[socket.socket]:
            return select.select(slow, [], [], 0)[0]

        eventually(lambda: len(answered()) >= 48)
        refused = answered()
        assert len(refused) < 64 and all(each.recv(12) == b"HTTP/1.1 429" for each in refused)
        assert resident(own) < before + 64
        assert own.ask("/health")[0] == 200
        assert own.ask("/v1/rank", REQUEST)[0] in (200, 429)
    eventually(lambda: own.ask("/v1/rank", REQUEST)[0] == 200)
    assert own.end() == 0


def test_slow_readers_hold_up_nobody(unharmed: Server) -> None:
    """The engine is done with them long before they have read, and what they read in the end is whole."""
    stream = {"model": "chat", "messages": TALK[:1], "max_tokens": 300, "seed": 1, "stream": True}
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(40):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            host, port = unharmed.address.split(":")
            connection.connect((host, int(port)))
            connection.sendall(raw("/v1/chat/completions", stream, "Connection: close"))
            slow.append(connection)
        assert unharmed.post("/v1/rank", REQUEST)["complete"]
        eventually(lambda: active(unharmed) == 0)
        texts = [read_all(connection) for connection in slow]
    assert all(text.count(b"chat.completion.chunk") > 50 and b"data: [DONE]" in text for text in texts)


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET /health HTTP/3.7\r\nHost: x\r\n\r\n",
    "zeros": bytes(1000),
    "no host": b"GET /health\r\n\r\n",
    "a path that is none": b"GET \x00\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method that is none": b"G(T /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
    "a header with a zero": b"GET /health HTTP/1.1\r\nHost: \x00\r\n\r\n",
    "a folded header": b"GET /health HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    "too many headers": b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    "a header of a megabyte": b"GET /health HTTP/1.1\r\nA: " + b"b" * MIB + b"\r\n\r\n",
    "a path of a megabyte": b"GET /" + b"a" * MIB + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a negative length": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
    "a length that is none": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n{}",
    "a length beyond numbers": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    "two lengths": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
    "a length and chunks": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "a chunk of no size": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond numbers": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
    "a chunk that is longer than it says": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{}{}\r\n0\r\n\r\n",
    "trailers of a megabyte": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"b" * MIB + b"\r\n\r\n",
    "a wrong query": b"POST /embed?model=%ff%fe&model= HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "a path out of the tree": b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address of another": b"GET http://elsewhere.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an upgrade": b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http(server: Server, name: str) -> None:
    """It is refused, or the connection closed. Nothing is answered as if it were right."""
    with connect(server) as connection:
        # It may be closed before all was sent.
        with contextlib.suppress(OSError):
            connection.sendall(MALFORMED[name])
            connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 505")), answer[:200]
    assert b"panic" not in answer
    assert server.ask("/health")[0] == 200


def test_requests_in_a_row_are_answered_in_order(server: Server) -> None:
    """Sent at once on one connection; a mistake among them is an answer like the others."""
    with connect(server) as connection:
        connection.sendall(raw("/embed", {"inputs": "a"}) + raw("/embed", {"colour": 1}) + raw("/v1/nothing", {}))
        connection.sendall(raw("/embed", {"inputs": "b"}, "Connection: close"))
        answer = read_all(connection)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"422", b"404", b"200"]


@pytest.mark.parametrize("device", ["/dev/full", "closed"])
def test_a_log_that_cannot_be_written(config: Path, tmp_path: Path, device: str) -> None:
    """The disk is full, or nobody reads any more. Lines are lost, answers are not."""
    path = tmp_path / "it.sock"
    command = [sys.executable, "-m", "foreturn", "serve", "--config", str(config), "--listen", f"unix:{path}"]
    if device == "closed":
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert process.stderr
        process.stderr.close()
    else:
        with Path(device).open("w") as log:
            process = subprocess.Popen(command, stderr=log)
    try:
        eventually(path.exists)
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(str(path))
                connection.sendall(raw("/v1/rank", REQUEST, "Connection: close"))
                assert read_all(connection).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_full_queue_refuses_in_each_protocols_words(config: Path, tmp_path: Path) -> None:
    """Nothing is lost and nothing answered twice: each caller gets its ranking, or a refusal that says when to ask again."""
    file = tmp_path / "foreturn.toml"
    file.write_text(config.read_text() + "[runtime]\nmax_queued = 1\n")
    own = Server(file)
    long = REQUEST | {"samples": 6, "window": 2}
    asked: list[tuple[str, Any]] = [("/v1/rank", long), ("/embed", {"inputs": ["a"] * 64}), ("/score", {
        "model": "embedder", "queries": "a", "documents": ["b"] * 64,
    })] * 12
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        made = list(pool.map(lambda each: (each[0], *own.ask(*each)), asked))
    statuses = {(path, status) for path, status, *_ in made}
    assert {status for _, status in statuses} == {200, 429}, statuses
    for path, status, document, answer in made:
        if status == 429:
            assert answer.headers["retry-after"] == "1"
            refused = document["error_type"] if path == "/embed" else document["error"]["type"]
            assert refused == ("Overloaded" if path == "/embed" else "overloaded")
    rankings = [without_time(document) for path, status, document, _ in made if (path, status) == ("/v1/rank", 200)]
    assert rankings and all(ranking == rankings[0] for ranking in rankings), "those that had a place are whole and equal"
    assert own.end() == 0


def test_a_server_that_dies_behind_a_build_costs_no_row(config: Path, tmp_path: Path) -> None:
    """Its policy and its user are behind a server that is killed. The same call goes on once there is one again, to the same
    rows."""
    tasks = tmp_path / "tasks.jsonl"
    lines = [{"id": at, "conversation": [{"role": "user", "content": f"Write poem {at}."}]} for at in range(24)]
    tasks.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    own = Server(config)
    settings = {
        "models": {"far": {"base_url": f"http://{own.address}/v1", "model": "chat", "max_retries": 0}},
        "rollout": {"window": 1, "samples": 1, "max_user_tokens": 8, "max_policy_tokens": 8},
        "metrics": [{"kind": "token_amount"}],
    }

    def build(to: str, on_progress: Any = None) -> dict[str, Any]:
        with foreturn.Engine(settings) as engine:
            return dict(
                engine.dataset_build(
                    tasks, tmp_path / to, candidates=2, turns=2, seed=7, concurrency=2, on_progress=on_progress
                )
            )

    def rows(of: str) -> list[str]:
        return (tmp_path / of / "dataset.jsonl").read_text(encoding="utf-8").splitlines()

    assert build("undisturbed")["finished"] == len(lines)

    def kill(finished: int, *_: int) -> None:
        if finished == 3:
            own.process.kill()

    with pytest.raises(foreturn.Error, match="10 conversations in a row failed"):
        build("disturbed", kill)
    own.process.wait()
    kept = rows("disturbed")
    undisturbed = set(rows("undisturbed"))
    assert 3 <= len(kept) < len(lines)
    assert [row for row in kept if row not in undisturbed] == []
    Server(config, "--listen", own.address)
    assert build("disturbed")["finished"] == len(lines)
    assert rows("disturbed") == rows("undisturbed")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The disk takes no more than this of a file: a write is cut off in the middle of a line, and the next one fails."""
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))


def test_a_log_of_rewards_on_a_full_disk_has_whole_lines(tmp_path: Path) -> None:
    """The row fails. When there is room again, the same log goes on, and a reader sees what was noted and nothing else."""
    log = RewardLog(tmp_path)
    rewards = {f"row {at}": Outcome(float(at), 0.5, 10, 0.0) for at in range(4)}
    log.put("row 0", rewards["row 0"])
    size = next(tmp_path.iterdir()).stat().st_size
    with files_of_at_most(size + size // 2), pytest.raises(foreturn.FileError, match="can't be written"):
        log.put("row 1", rewards["row 1"])
    assert log.get("row 1") is None
    assert next(tmp_path.iterdir()).read_bytes().count(b"\n") == 1
    log.put("row 2", rewards["row 2"])
    log.put("row 3", dataclasses.replace(rewards["row 3"], outage="the endpoint was away"))
    log.close()
    read = RewardLog(tmp_path)
    read.update()
    assert [read.get(key) for key in rewards] == [rewards["row 0"], None, rewards["row 2"], None]


def test_a_build_on_a_full_disk_ends_and_goes_on_later(config: Path, tmp_path: Path, run: Any) -> None:
    """No row is lost, half-written or held twice."""
    tasks = tmp_path / "tasks.jsonl"
    lines = [{"id": at, "conversation": [{"role": "user", "content": f"Write poem {at}."}]} for at in range(6)]
    tasks.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    build = ["-m", "foreturn", "dataset", "build", "--config", str(config), "--tasks", str(tasks), "--candidates", "2", "--seed", "7"]
    rows, journal = "dataset.jsonl", "journal.jsonl"
    assert run(*build, "--to", str(tmp_path / "undisturbed")).returncode == 0
    whole = (tmp_path / "undisturbed" / journal).read_bytes()
    # In the middle of the line of the third conversation.
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    disturbed = [*build, "--to", str(tmp_path / "disturbed"), "--concurrency", "1"]
    # Python ignores the signal that a limit sends. The command would end by it, so it inherits that.
    with files_of_at_most((ends[2] + ends[3]) // 2):
        ended = subprocess.run(
            [sys.executable, *disturbed], capture_output=True, text=True, check=False, restore_signals=False
        )
    assert ended.returncode == 1 and journal in ended.stderr, ended
    kept = (tmp_path / "disturbed" / journal).read_bytes()
    assert kept.endswith(b"\n") and kept.count(b"\n") == 3
    assert run(*disturbed).returncode == 0
    texts = [(tmp_path / each / rows).read_text(encoding="utf-8") for each in ("undisturbed", "disturbed")]
    assert texts[0] == texts[1] and texts[0].count("\n") == len(lines)
