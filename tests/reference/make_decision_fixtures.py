"""Makes tests/fixtures/decisions.json: questions to /v1/decisions and replies, as OpenAI, vLLM and SGLang type them.

    python tests/reference/make_decision_fixtures.py --vllm FILE --sglang FILE

OpenAI's client sends the bodies and reads the replies of its own dialect. The bodies and replies of vLLM and SGLang go
through the types of their servers, which refuse fields that they don't know. FILE is the file with these types:
vllm/entrypoints/openai/decisions/protocol.py of vLLM 0.33.0's source distribution, and
sglang/srt/entrypoints/openai/protocol.py of SGLang 0.5.23's wheel. The types are taken out of it, because importing a
server takes gigabytes. OpenAI's client is in requirements-decisions.txt.
"""

import argparse
import ast
import json
import typing
import unicodedata
from pathlib import Path

import httpx2
import openai
import pydantic
from openai.types import Decision
from openai.types.decision_create_params import DecisionCreateParams

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "fixtures" / "decisions.json"

SHOWN = "<conversation>\n<user>\nA poem?\n</user>\n<assistant>\n\"Roses\" & <b>\u00e9</b>\n</assistant>\n</conversation>"
ASKED = "Does it rhyme?\nAnswer with exactly one of these and nothing else: Yes, No."
JUDGE = [
    {"role": "system", "content": "You judge."},
    {"role": "user", "content": f"{SHOWN}\n\n{ASKED}"},
]
TALK = [
    {"role": "user", "content": "A poem?"},
    {"role": "assistant", "content": "Roses\nare \"red\"."},
    {"role": "user", "content": "Which?"},
]
TOLD = r'[{"role":"user","content":"A poem?"},{"role":"assistant","content":"Roses\nare \"red\"."}]'

QUESTIONS = [
    ("a judge's question", JUDGE, [["Yes", "yes"], ["No"]], f"You judge.\n\n{SHOWN}", ASKED),
    ("three answers", JUDGE[1:], [["Not at all"], ["Partly"], ["\u00dcberall", "all"]], SHOWN, ASKED),
    ("a talk of several", TALK, [["First"], ["Second"]], TOLD, "Which?"),
]
# Shares of the answers, their mass, and the counts of tokens: prompt, cached, generated.
REPLIES = [
    ([0.75, 0.25], 0.5, (40, 16, 1)),
    ([0.5, 0.125, 0.375], 1.0, (7, 0, 1)),
    ([0.0, 1.0], 0.25, (7, 7, 1)),
]


def types(path, names, **given):
    """The types that a file defines under these names, without what it imports."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))

    def name(node):
        targets = getattr(node, "targets", [getattr(node, "target", node)])
        return getattr(targets[0], "id", getattr(node, "name", None))

    # In the order of the file, because they refer to each other.
    wanted = [node for node in tree.body if name(node) in names]
    missing = set(names) - {name(node) for node in wanted}
    if missing:
        raise SystemExit(f"{path} does not define {sorted(missing)}")
    used = {node.id for node in ast.walk(ast.Module(wanted, [])) if isinstance(node, ast.Name)}
    # pydantic makes its names when they are asked for.
    imported = {name: getattr(pydantic, name) for name in used & set(pydantic.__all__)}
    space = {**vars(typing), **imported, "unicodedata": unicodedata, "__name__": "types", **given}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    return space


def vllm_types(path):
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    aliases = ["ShortText", "InputText", "ChoiceValue", "DecisionQuestion", "DecisionAnswer"]
    base = {"OpenAIBaseModel": pydantic.BaseModel, "validate_cache_salt": lambda salt: salt}
    return types(path, [*names, *aliases], **base)


def sglang_types(path):
    names = """DEFAULT_MODEL_NAME PromptTokensDetails CompletionTokensDetails UsageInfo
        ChatCompletionMessageContentImageURL is_blank_decision_text _nonblank_decision_text check_option_names
        DecisionText RequiredDecisionText _to_image_url DecisionImage DecisionOption DecisionChoiceQuestion
        DecisionScoreQuestion DecisionYesNoQuestion DecisionQuestion DecisionRequest DecisionAnswer DecisionResponse"""
    return types(path, names.split())


def plain(value):
    """The value with lists for what pydantic reads lazily."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    return [plain(item) for item in value]


def sent_by_openai(reply, **question):
    """The body that OpenAI's client sends, and the reply as it reads it."""
    bodies = []

    def answer(request):
        assert request.url.path == "/v1/decisions", request.url
        bodies.append(json.loads(request.content))
        return httpx2.Response(200, json=reply)

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = openai.OpenAI(
        base_url="http://localhost/v1", api_key="x", http_client=transport, _strict_response_validation=True
    )
    read = client.decisions.create(**question)
    typed = pydantic.TypeAdapter(DecisionCreateParams).validate_python(bodies[0])
    # Unknown fields would be missing here.
    assert plain(typed) == bodies[0], (typed, bodies)
    return bodies[0], read


def listed(options, shares):
    return [{"value": option, "probability": share} for option, share in zip(options, shares, strict=True)]


def choice(options, shares, confidence):
    likeliest = options[max(range(len(shares)), key=shares.__getitem__)]
    return {
        "type": "choice",
        "name": "answer",
        "choice": likeliest,
        # Another order than that of the question.
        "probabilities": listed(options, shares)[::-1],
        "confidence": confidence,
    }


def listed_reply(answer, counts):
    prompt, cached, generated = counts
    return {
        "model": "big",
        "answers": [answer],
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + generated,
        },
    }


def cases(vllm, sglang):
    for (about, messages, answers, shown, asked), (shares, mass, counts) in zip(QUESTIONS, REPLIES, strict=True):
        options = [spellings[0] for spellings in answers]
        known = {"about": about, "messages": messages, "answers": answers}
        prompt, cached, generated = counts
        usage = {"prompt_tokens": prompt, "reused_tokens": cached, "generated_tokens": generated}
        question = {
            "model": "big",
            "input": shown,
            "questions": [
                {
                    "type": "choice",
                    "name": "answer",
                    "instructions": asked,
                    "choices": [{"value": option} for option in options],
                }
            ],
        }
        reply = listed_reply(choice(options, shares, max(shares)), counts)
        body, read = sent_by_openai(reply, **question)
        found = {entry.value: entry.probability for entry in read.answers[0].probabilities}
        assert isinstance(read, Decision) and read.usage.input_tokens == prompt
        whole = [found[option] for option in options]
        yield {**known, "dialect": "openai", "body": body, "reply": reply, "probabilities": whole, "usage": usage}

        # vLLM's confidence is the likeliest answer's probability in the whole vocabulary.
        confidence = max(shares) * mass
        typed = vllm["DecisionResponse"](**listed_reply(choice(options, shares, confidence), counts))
        asked_by = vllm["DecisionRequest"](**body).model_dump(exclude_unset=True)
        assert asked_by == body
        parts = [share * mass for share in shares]
        reply = typed.model_dump(mode="json")
        yield {**known, "dialect": "vllm", "body": body, "reply": reply, "probabilities": parts, "usage": usage}

        body = {
            "model": "big",
            "input": shown,
            "questions": [
                {
                    "type": "choice",
                    "id": "answer",
                    "question": asked,
                    "options": [{"name": option} for option in options],
                }
            ],
        }
        assert sglang["DecisionRequest"](**body).model_dump(exclude_unset=True) == body
        answer = sglang["DecisionAnswer"](
            type="choice", choice=options[0], probabilities=dict(zip(options, shares)), label_mass=mass
        )
        # SGLang reports no token of the answer, and cached ones only where it was told to.
        typed = sglang["DecisionResponse"](
            model="big",
            prompt_format_version=1,
            answers={"answer": answer},
            usage=sglang["UsageInfo"](prompt_tokens=prompt, total_tokens=prompt),
        )
        reply = typed.model_dump(exclude_none=True)
        usage = {"prompt_tokens": prompt, "reused_tokens": 0, "generated_tokens": 0}
        yield {**known, "dialect": "sglang", "body": body, "reply": reply, "probabilities": parts, "usage": usage}

    about, messages, answers, *_ = QUESTIONS[0]
    reply = listed_reply({"type": "refusal", "name": "answer"}, (40, 0, 0))
    Decision.model_validate(reply)
    yield {
        "about": "a refusal",
        "messages": messages,
        "answers": answers,
        "dialect": "openai",
        "body": None,
        "reply": reply,
        "error": "the model refused",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="the file with vLLM's types")
    parser.add_argument("--sglang", required=True, help="the file with SGLang's types")
    given = parser.parse_args()
    made = [json.dumps(case, ensure_ascii=False) for case in cases(vllm_types(given.vllm), sglang_types(given.sglang))]
    OUT.write_text("[\n" + ",\n".join(made) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
