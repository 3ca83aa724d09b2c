#!/usr/bin/env python3
"""Twenty questions, and guess my city: two games whose user is a script. No model plays the user, and none judges.

They are the tasks of LMRL-Gym (Abdulhai et al. 2023) of these names, with words and facts of our own (`facts.json`). Here the
policy asks, and the user knows.

    oracle.py tasks FOLDER            writes twenty_questions.jsonl and guess_my_city.jsonl
    oracle.py serve [--port 8021]     plays the user, as an endpoint that games.toml names
    oracle.py score guessed|cost      a metric of kind `command`: 1 if the policy found it, else 0; or minus the number of
                                      replies that did not, which is LMRL-Gym's reward

A reply is a guess if it names exactly one secret of the game as its last word (things), or anywhere (cities). Who names
several at once is told to name one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "facts.json").read_text(encoding="utf-8"))
THINGS, CITIES = FACTS["things"], FACTS["cities"]
STOP = "[[TERMINATE CHAT]]"
GAMES = {
    "twenty_questions": (
        THINGS,
        "I am thinking of something. Find out what it is. Ask me one question at a time, which I can answer with yes or no. Name it "
        "as soon as you know.",
        "a guessing game with yes-or-no questions",
        'The secret is "{}". The assistant is to find it by asking questions, which are answered with yes or no.',
    ),
    "guess_my_city": (
        CITIES,
        "Guess which city I come from. Ask me one question at a time, about anything except its name. Name it as soon as you know.",
        "a guessing game about a city",
        'The secret is "{}". The assistant is to find the city by asking questions about it, which are answered without naming it.',
    ),
}


def tasks(game: str) -> list[dict[str, Any]]:
    """The tasks of a game."""
    secrets, opening, about, prompt = GAMES[game]
    return [
        {
            "id": secret.lower(),
            "conversation": [{"role": "user", "content": opening}],
            "goal": {"task": about, "prompt": prompt.format(secret), "reference": secret},
        }
        for secret in secrets
    ]


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())


def named(text: str, secrets: dict[str, Any]) -> list[str]:
    """The secrets that a text names."""
    return [secret for secret in secrets if re.search(rf"\b{re.escape(secret.lower())}s?\b", text.lower())]


def guesses(text: str, secret: str) -> bool:
    """Whether a reply is the right guess."""
    secrets = THINGS if secret in THINGS else CITIES
    if named(text, secrets) != [secret]:
        return False
    last = (words(text) or [""])[-1]
    return secret in CITIES or last.removesuffix("s") == secret.removesuffix("s")


def asked(text: str, lists: dict[str, list[str]]) -> list[str]:
    """What a question is about: the entries of which it has a word."""
    own = f" {' '.join(words(text))} "
    return [name for name, spellings in lists.items() if any(f" {spelling} " in own for spelling in spellings)]


def answer_thing(question: str, secret: str) -> str:
    """Yes or no about a thing."""
    about = asked(question, FACTS["properties"])
    if not about:
        return "I can't answer that with yes or no."
    holds = [name in THINGS[secret] for name in about]
    yes = any(holds) if " or " in question.lower() else all(holds)
    if re.search(r"\b(not|isn't|never|doesn't)\b", question.lower()):
        yes = not yes
    return "Yes." if yes else "No."


def answer_city(question: str, secret: str) -> str:
    """A fact about a city, without its name."""
    facts = CITIES[secret]
    about = asked(question, FACTS["topics"])
    countries = {city["country"] for city in CITIES.values() if city["country"].lower() in question.lower()}
    if countries:
        return "Yes." if facts["country"] in countries else "No, it is in another country."
    if not about:
        return "I can't say much about that."
    topic = about[0]
    fact = facts[topic]
    if topic == "continent":
        reply = f"It is in {fact}." if facts["country"] != fact else "It is on the smallest continent."
    elif topic == "country":
        reply = f"It is in {fact}." if "which" in words(question) or "what" in words(question) else "Name one, and I'll tell you."
    elif topic == "language":
        reply = f"People there speak {fact}."
    elif topic == "capital":
        reply = "Yes, it is the capital." if fact else "No, it is not the capital."
    elif topic in ("sea", "river"):
        reply = f"It lies at {fact}." if fact else f"No, there is no {topic} worth a word."
    elif topic == "climate":
        reply = f"It has {fact}." if " " in fact and fact.split()[0] not in ("hot", "mild", "humid", "warm") else f"It is {fact}."
    elif topic == "food":
        reply = f"People there like {fact}."
    else:
        reply = f"There you see {fact}."
    return reply


def answer(reply: str, secret: str) -> str:
    """What the user says to a reply of the policy."""
    if guesses(reply, secret):
        return f"Yes, that is it! {STOP}"
    secrets = THINGS if secret in THINGS else CITIES
    if len(named(reply, secrets)) > 1:
        return "One at a time, please."
    if named(reply, secrets) and secrets is CITIES:
        return "No, not that one."
    return answer_thing(reply, secret) if secret in THINGS else answer_city(reply, secret)


def user(prompt: str) -> str:
    """The user's next message, given what foreturn shows to a model that plays the user."""
    found = re.search(r'The secret is "([^"]+)"', prompt)
    if not found or found[1] not in {**THINGS, **CITIES}:
        raise ValueError("the goal names no secret of these games: use the tasks that `oracle.py tasks` writes")
    secret = found[1]
    replies = re.findall(r"<assistant>\n(.*?)\n</assistant>", prompt, flags=re.DOTALL)
    if replies:
        return answer(replies[-1], secret)
    return GAMES["twenty_questions" if secret in THINGS else "guess_my_city"][1]


class Endpoint(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        """Answers one request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            prompt = "\n".join(message["content"] for message in body["messages"])
            said, status = user(prompt), 200
        except (KeyError, ValueError) as error:
            self._send(400, {"error": {"message": str(error)}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        counts = {"prompt_tokens": len(words(prompt)), "completion_tokens": len(words(said))}
        usage = {**counts, "total_tokens": sum(counts.values())}
        self._send(status, {"id": "oracle", "object": "chat.completion", "created": 0, "model": "oracle", "choices": [choice],
                            "usage": usage})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def score(metric: str, conversation: dict[str, Any]) -> float:
    """The value of a conversation."""
    secret = conversation["goal"]["reference"]
    said = [*conversation["conversation"], {"role": "assistant", "content": conversation["response"]}, *conversation["future"]]
    right = [guesses(message["content"], secret) for message in said if message["role"] == "assistant"]
    if metric == "guessed":
        return float(any(right))
    # Who goes on after the right guess is not charged for it.
    return -float(right.index(True) if True in right else len(right))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tasks").add_argument("folder", type=Path)
    commands.add_parser("serve").add_argument("--port", type=int, default=8021)
    commands.add_parser("score").add_argument("metric", choices=["guessed", "cost"])
    args = parser.parse_args()
    if args.command == "tasks":
        for game in GAMES:
            lines = "".join(json.dumps(task) + "\n" for task in tasks(game))
            (args.folder / f"{game}.jsonl").write_text(lines, encoding="utf-8")
    elif args.command == "serve":
        server = ThreadingHTTPServer(("127.0.0.1", args.port), Endpoint)
        print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
        server.serve_forever()
    else:
        scored = json.load(sys.stdin)["conversations"]
        json.dump({"scores": [score(args.metric, conversation) for conversation in scored]}, sys.stdout)


if __name__ == "__main__":
    main()
