"""tools/recall.py: a fact is right if all of its tokens are the likeliest ones, each behind the true text before it."""
import json
import subprocess
import sys

from conftest import REPOSITORY

PROMPT = [2, 4753, 3155, 322, 265, 663, 293, 265]


def test_facts_are_counted(program, tmp_path):
    (answer,) = program.generate([{"tokens": PROMPT, "max_tokens": 8, "ignore_eos": True}])
    said = answer["tokens"]
    tokens = PROMPT + said
    begin = len(PROMPT)
    other = tokens.copy()
    other[begin + 5] = said[5] % 1000 + 7  # wrong itself, and the tokens behind it may be
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(line) + "\n" for line in [
        {"tokens": tokens, "answers": [[begin, begin + 1], [begin + 2, begin + 3, begin + 4], [begin + 7]]},
        {"tokens": other, "answers": [[begin + 3, begin + 4], [begin + 4, begin + 5]]},
    ]))
    done = subprocess.run([sys.executable, REPOSITORY / "tools" / "recall.py", "--facts", facts, "--weights", "auto,int8",
                           "--binary", program.binary, "--model", program.model_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["weights", "facts", "right", "of", "lost"]
    assert rows[1] == ["auto", "4", "5", "0"]
    assert rows[2][:3:2] == ["int8", "5"]


def test_positions_out_of_the_text_are_refused(program, tmp_path):
    facts = tmp_path / "facts.jsonl"
    for answers in ([[0]], [[4]], [[]]):
        facts.write_text(json.dumps({"tokens": [2, 5, 6, 7], "answers": answers}) + "\n")
        done = subprocess.run([sys.executable, REPOSITORY / "tools" / "recall.py", "--facts", facts,
                               "--binary", program.binary], capture_output=True, text=True)
        assert done.returncode == 1
        assert "facts.jsonl:1: answers must be positions from 1 to 3" in done.stderr
