"""`h2oserve call`: generate's options and output, against a server."""
import json
import signal
import subprocess
import time

import pytest

from conftest import BIN, PATIENCE, Program, until


def call(shared, *arguments, expect=0):
    run = subprocess.run([BIN / "h2oserve", "call", "--server", shared.address, *map(str, arguments)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert run.returncode == expect, run.stderr
    return run


def last_line(run):
    return run.stderr.strip().splitlines()[-1]


def test_text_and_json(shared, generate):
    (expected,) = generate([{"prompt": "The kernel", "max_tokens": 20, "kv_policy": "h2o", "kv_budget": 40}])
    options = ["--prompt", "The kernel", "--max-tokens", 20, "--kv-policy", "h2o", "--kv-budget", 40]
    assert call(shared, *options).stdout == expected["text"] + "\n"
    lines = call(shared, *options, "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [expected]
    assert list(json.loads(lines[0])) == ["index", "tokens", "text", "finish_reason", "usage"]


def test_input_lines_run_together_and_come_in_order(shared, generate, tmp_path):
    lines = [{"prompt": "The kernel", "max_tokens": 40 - i, "ignore_eos": True} for i in range(12)]
    lines += [{"tokens": [2, 5, 9], "kv_policy": "sink", "kv_budget": "50%", "max_tokens": 5},
              {"prompt": "x", "temperature": 1.0, "top_k": 40, "top_p": 0.9, "seed": 3, "max_tokens": 5},
              {"prompt": "The kernel", "max_tokens": 8, "repetition_penalty": 1.3, "logit_bias": {"30": 2.5}},
              {"prompt": "x", "temperature": 0.9, "min_p": 0.05, "frequency_penalty": 0.5, "presence_penalty": 0.3,
               "min_tokens": 3, "stop_token_ids": [9, 10], "seed": 4, "max_tokens": 8},
              {"prompt": "The kernel", "stop": "kernel", "max_tokens": 30},
              {"prompt": "The kernel", "stop": ["zzz", "kernel"], "max_tokens": 30}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = call(shared, "--input", path, "--json")
    assert [json.loads(line) for line in run.stdout.splitlines()] == generate(lines)


def test_logprobs(shared, generate):
    options = {"prompt": "The kernel", "max_tokens": 4, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": True}
    (expected,) = generate([options])
    answer = json.loads(call(shared, "--prompt", "The kernel", "--max-tokens", 4, "--logprobs", "--top-logprobs", 2,
                             "--prompt-logprobs", "--json").stdout)
    assert [position["token"] for position in answer["logprobs"]] == answer["tokens"]
    assert answer["prompt_logprobs"][0] is None
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"] > 1
    for ours, theirs in zip(answer["prompt_logprobs"][1:] + answer["logprobs"],
                            expected["prompt_logprobs"][1:] + expected["logprobs"]):
        assert len(ours["top"]) == 2
        assert [t["token"] for t in [ours, *ours["top"]]] == [t["token"] for t in [theirs, *theirs["top"]]]
        assert [t["logprob"] for t in [ours, *ours["top"]]] == pytest.approx(
            [t["logprob"] for t in [theirs, *theirs["top"]]], abs=1e-4)


@pytest.mark.parametrize("line, says", [
    ('{"prompt": "a", "max_token": 3}', "max_token"),
    ('{"prompt": "a", "tokens": [2]}', "prompt"),
    ("{}", "prompt"),
    ("[1]", "object"),
    ('{"prompt": "a"', "JSON"),
    ('{"prompt": 5}', "prompt"),
    ('{"tokens": []}', "tokens"),
    ('{"tokens": [2, "x"]}', "tokens"),
    ('{"tokens": [2, -1]}', "-1"),
    ('{"tokens": [99999999999]}', "99999999999"),
    ('{"prompt": "a", "max_tokens": 0}', "max_tokens"),
    ('{"prompt": "a", "max_tokens": 1.5}', "1.5"),
    ('{"prompt": "a", "temperature": -1}', "temperature"),
    ('{"prompt": "a", "temperature": "hot"}', "hot"),
    ('{"prompt": "a", "top_p": 2}', "top_p"),
    ('{"prompt": "a", "kv_policy": "lru"}', "lru"),
    ('{"prompt": "a", "kv_policy": "h2o", "kv_budget": 0}', "0"),
    ('{"prompt": "a", "kv_policy": "h2o", "kv_budget": "200%"}', "200%"),
    ('{"prompt": "a", "kv_budget": 40}', "full"),
    ('{"prompt": "a", "seed": -1}', "-1"),
    ('{"prompt": "a", "stop": 5}', "stop"),
    ('{"prompt": "a", "stop": [""]}', "stop"),
    ('{"prompt": "a", "ignore_eos": 1}', "ignore_eos"),
])
def test_a_bad_line_is_named_before_anything_runs(shared, tmp_path, line, says):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    run = call(shared, "--input", path, expect=2)
    assert not run.stdout
    assert len(run.stderr.splitlines()) == 1
    assert f"{path}:3: " in run.stderr and says in run.stderr, run.stderr


def test_bytes_that_are_not_utf8(shared, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "a\xff"}\n')
    assert f"{path}:1: " in call(shared, "--input", path, expect=2).stderr
    run = subprocess.run([BIN / "h2oserve", "call", "--server", shared.address, "--prompt", b"a\xff"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert run.returncode == 2 and b"not UTF-8: byte 0xff at offset 1" in run.stderr
    assert not run.stdout and len(run.stderr.splitlines()) == 1


def test_a_missing_or_empty_file(shared, tmp_path):
    assert "no/such" in call(shared, "--input", "/no/such/file", expect=2).stderr
    (tmp_path / "empty").write_text("\n")
    assert "no prompts" in call(shared, "--input", tmp_path / "empty", expect=2).stderr


def test_errors_of_the_server_are_one_line(shared):
    run = call(shared, "--tokens", "2 99999", "--json", expect=2)
    (result,) = map(json.loads, run.stdout.splitlines())
    assert result["finish_reason"] == "error" and result["tokens"] == []
    assert len(run.stderr.splitlines()) == 1
    assert "INVALID_ARGUMENT" in run.stderr and "99999" in run.stderr


def test_no_server():
    run = subprocess.run([BIN / "h2oserve", "call", "--server", "127.0.0.1:1", "--prompt", "x"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert run.returncode == 1
    assert "127.0.0.1:1" in last_line(run) and "UNAVAILABLE" in last_line(run)


def test_no_prompt_and_unknown_flags(shared):
    assert "--prompt" in call(shared, expect=2).stderr
    run = call(shared, "--prompt", "a", "--no-such-flag", expect=2)
    assert "--no-such-flag" in run.stderr and len(run.stderr.splitlines()) == 1
    assert "generate" in call(shared, "--prompt", "a", "--trace", "t.jsonl", expect=2).stderr
    assert "'x'" in call(shared, "--tokens", "2 x", expect=2).stderr


def test_a_deadline(shared):
    run = call(shared, "--prompt", "The kernel", "--max-tokens", 2000, "--ignore-eos", "--timeout", 0.5, "--json", expect=1)
    (result,) = map(json.loads, run.stdout.splitlines())
    assert result["finish_reason"] == "deadline"
    assert len(result["tokens"]) == result["usage"]["completion_tokens"] > 0
    assert "DEADLINE_EXCEEDED" in last_line(run)


def test_ctrl_c_cancels(shared, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "short", "max_tokens": 1}\n' + '{"prompt": "a", "max_tokens": 2000, "ignore_eos": true}\n' * 3)
    run = Program("h2oserve", "call", "--server", shared.address, "--input", path, "--json")
    until(lambda: run.lines["stdout"], "the short one is done")
    time.sleep(0.5)
    run.signal(signal.SIGINT)
    assert run.wait(5) == 1
    reasons = [json.loads(line)["finish_reason"] for line in run.lines["stdout"]]
    assert reasons == ["length", "cancelled", "cancelled", "cancelled"]
    assert "CANCELLED" in run.lines["stderr"][-1]


def test_an_empty_prompt_is_a_prompt(shared):
    result = json.loads(call(shared, "--prompt", "", "--max-tokens", 2, "--json").stdout)
    assert result["usage"]["prompt_tokens"] == 1
