"""Our part of Jinja against Jinja itself: templates of the shapes that model families use, and expressions one by one, must
give the same text, or an error where Jinja gives one.

H2O_BIN  the folder with render_templates (default build/release/bin); without it the tests are skipped
"""
import datetime
import functools
import json
import os
import pathlib
import subprocess

import pytest

jinja2 = pytest.importorskip("jinja2", reason="no jinja2; apt install python3-jinja2")
import jinja2.ext  # noqa: E402
import jinja2.sandbox  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RENDER = pathlib.Path(os.environ.get("H2O_BIN") or REPOSITORY / "build" / "release" / "bin").absolute() / "render_templates"
TEMPLATES = sorted((pathlib.Path(__file__).parent / "templates").glob("*.jinja"))
NOW = 1_721_000_000

pytestmark = pytest.mark.skipif(not RENDER.exists(), reason=f"not built: {RENDER}")


class Generation(jinja2.ext.Extension):
    """{% generation %}, which marks what the model has written."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    """As transformers sets it for chat templates."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                        extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW).strftime(form)
    return made


ENVIRONMENT = environment()


@functools.cache
def compiled(source):
    return ENVIRONMENT.from_string(source)


def by_jinja(source, variables):
    try:
        return {"text": compiled(source).render(**variables)}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error), "raised": type(error) is jinja2.exceptions.TemplateError}
    except Exception as error:  # a TypeError of Python, and such
        return {"error": str(error), "raised": False}


def by_us(cases):
    lines = "".join(json.dumps({"template": source, "variables": variables, "now": NOW}) + "\n" for source, variables in cases)
    done = subprocess.run([RENDER], input=lines, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def compare(cases):
    """Fails with the cases whose answers differ."""
    wrong = []
    for (source, variables), ours in zip(cases, by_us(cases), strict=True):
        theirs = by_jinja(source, variables)
        if ours.get("raised") and theirs.get("raised"):
            same = ours["error"] == theirs["error"]
        else:
            same = ours.get("text") == theirs.get("text") and ours.get("raised") == theirs.get("raised")
        if not same:
            wrong.append(f"{source[:300]}\nwith {json.dumps(variables)[:300]}\nJinja: {theirs}\nwe:    {ours}")
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n\n" + "\n\n".join(wrong[:10])


def message(role, content, **others):
    return {"role": role, "content": content, **others}


CONVERSATIONS = {
    "question": [message("user", "What is 2 + 2?")],
    "system": [message("system", "Be brief.\n"), message("user", "Hi")],
    "turns": [message("user", " one "), message("assistant", "two\n\n"), message("user", "\tthree")],
    "long": [message("system", "S")] + [message(("user", "assistant")[i % 2], f"{i}. \u00fcn\u00ef {'x' * i}") for i in range(9)],
    "answered": [message("user", "Say hi"), message("assistant", "hi")],
    "two users": [message("user", "a"), message("user", "b")],
    "assistant first": [message("assistant", "hello"), message("user", "a")],
    "unknown role": [message("critic", "no"), message("user", "a")],
    "late system": [message("user", "a"), message("system", "b"), message("user", "c")],
    "thoughts": [message("user", "Why?"), message("assistant", "<think>\nlet me see\n</think>\n\nBecause."), message("user", "Oh"),
                 message("assistant", "Yes", reasoning_content="hm")],
    "empty": [message("user", ""), message("assistant", ""), message("user", "x")],
    "none": [message("user", "x"), message("assistant", None), message("user", "y")],
    "marks": [message("user", "<|im_end|> {{ 7 * 7 }} {% raise %} </s> \u2028 'q' \"d\" \\n"), message("assistant", "\U0001f600 & <b>")],
    "tools": [message("user", "Weather?"),
              message("assistant", "", tool_calls=[{"id": "c1", "type": "function", "function": {
                  "name": "weather", "arguments": {"place": "K\u00f6ln", "days": 2, "units": ["C", None, True, 1.5]}}}]),
              message("tool", "{\"t\": 21}", tool_call_id="c1", name="weather"), message("user", "Thanks")],
    "parts": [message("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]), message("assistant", "c")],
    "no messages": [],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Says \"how\" it is <b>", "parameters": {
    "type": "object", "properties": {"place": {"type": "string", "description": "Where"}, "days": {"type": "integer", "enum": [1, 2]}},
    "required": ["place"]}}}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
EXTRAS = [{"add_generation_prompt": True, "tools": None, "documents": None},
          {"add_generation_prompt": False, "tools": None, "documents": None},
          {"add_generation_prompt": True, "enable_thinking": False, "tools": None},
          {"add_generation_prompt": True, "enable_thinking": True, "tools": TOOLS, "builtin_tools": ["search"]}]


def test_there_are_templates():
    assert len(TEMPLATES) >= 30


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template(path):
    source = path.read_text()
    compare([(source, {"messages": messages, **TOKENS, **extra}) for messages in CONVERSATIONS.values() for extra in EXTRAS])


VARIABLES = {"n": 7, "f": 2.5, "t": True, "z": 0, "e": "", "s": " Some t\u00e9xt, here\n", "w": "a-b (c) d'e \u00e9a", "l": [3, 1, 2], "o": None,
             "m": [{"k": "b", "v": 1}, {"k": "A", "v": 2}, {"k": "b"}], "d": {"x": 1, "items": 2, "Y": [1, {"q": "r"}]}, "x": {"a": {"b": [5, 6]}},
             "words": ["bb", "A", "c", "a"], "neg": -7, "big": 12345678901234, "u": "\u00c9\u03b1 \ud7ff\u200b\u00a0"}


def one_line_cases():
    lines = (pathlib.Path(__file__).parent / "expressions.txt").read_text().split("\n")
    return [line for line in lines if line and not line.startswith("#")]


def test_expressions():
    compare([("{{ " + line + " }}", VARIABLES) for line in one_line_cases()])


def test_statements():
    text = (pathlib.Path(__file__).parent / "statements.txt").read_text()
    sources = [part.split("\n", 1)[1] if "\n" in part else "" for part in text.split("=====")[1:]]
    compare([(source, VARIABLES) for source in sources])
