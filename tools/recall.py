#!/usr/bin/env python3
"""Counts the facts that the demo model still recalls with each format of weights.

    tools/recall.py --facts recall.jsonl [--weights auto,int8,fp8,int4:64,int4] [--binary build/release/bin/h2oserve]

Each line of the file is {"tokens": [..], "answers": [[..], ..]}. An answer lists positions of `tokens`: those of a fact that
the text before it has told. Every position is predicted from all tokens before it, whatever the model would have said
itself, with the full cache. A fact is right if each of its tokens is the likeliest one.

Prints a table: facts that are right, of how many, and those that are right with the first format and wrong with this one.
int4:64 is int4 in groups of 64. The figures stand in docs/weights.md.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def progress(items, **options):
    try:
        from tqdm import tqdm
        return tqdm(items, file=sys.stderr, **options)
    except ImportError:
        return items


def read_facts(path):
    """[(tokens, answers)]"""
    lines = []
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            line = json.loads(text)
            tokens, answers = line["tokens"], line["answers"]
            if not all(answer and 1 <= min(answer) and max(answer) < len(tokens) for answer in answers):
                sys.exit(f"{path}:{number}: answers must be positions from 1 to {len(tokens) - 1}")
            lines.append((tokens, answers))
    return lines


def likeliest(arguments, path, *words):
    """For each line the likeliest token of each position; none of the first."""
    command = [str(arguments.binary), "generate", "--model", str(arguments.model), "--tp", str(arguments.tp), "--device",
               arguments.device, "--input", str(path), "--json", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    return [[place and place["top"][0]["token"] for place in line["prompt_logprobs"]]
            for line in sorted(lines, key=lambda line: line["index"])]


def right_facts(lines, tops):
    """{(line, fact)}"""
    if len(tops) != len(lines):
        sys.exit(f"generate answered {len(tops)} of {len(lines)} lines")
    return {(i, k) for i, ((tokens, answers), top) in enumerate(zip(lines, tops)) for k, answer in enumerate(answers)
            if all(top[position] == tokens[position] for position in answer)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--facts", required=True, help="JSON lines with tokens and answers")
    parser.add_argument("--binary", type=pathlib.Path, default=REPOSITORY / "build" / "release" / "bin" / "h2oserve")
    parser.add_argument("--model", type=pathlib.Path, default=REPOSITORY / "models" / "opt-demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--weights", default="auto,int8,fp8,int4:64,int4", help="formats of weights to compare")
    arguments = parser.parse_args()
    if not os.access(arguments.binary, os.X_OK):
        sys.exit(f"{arguments.binary} is not there: build it or give --binary")
    started = time.monotonic()
    lines = read_facts(arguments.facts)
    count = sum(len(answers) for _, answers in lines)
    first = None
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "prompts.jsonl"
        path.write_text("".join(json.dumps({"tokens": tokens, "prompt_logprobs": True, "logprobs": True,
                                            "top_logprobs": 1, "max_tokens": 1}) + "\n" for tokens, _ in lines))
        print(f"{'weights':8} {'facts right':>11} {'of':>5} {'lost':>5}")
        for name in progress(arguments.weights.split(","), unit="format"):
            weights, _, group = name.partition(":")
            words = ["--weights", weights, *(["--weight-group", group] if group else [])]
            right = right_facts(lines, likeliest(arguments, path, *words))
            first = right if first is None else first
            print(f"{name:8} {len(right):11} {count:5} {len(first - right):5}", flush=True)
    print(f"{len(lines)} texts, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
