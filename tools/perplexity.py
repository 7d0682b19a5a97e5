#!/usr/bin/env python3
"""Measures the perplexity of the demo model under every KV policy, and compares it with a simulation of the policies.

    tools/perplexity.py --text heldout.txt [--binary build/release/bin/h2oserve]
    tools/perplexity.py --text heldout.txt --weights auto,int8,fp8,int4:64,int4

The text holds documents separated by NUL bytes. Those of at least 1,024 tokens count; the first 16 of them are taken, with
</s> in front, and cut to their first 1,024 tokens. Each is decoded token by token from its first token on (logits --prefill
1), so every token is predicted from a cache that the policy has already thinned out. The perplexity is exp of the mean
negative log-likelihood of tokens 256 to 1,023 of all documents together. (With a prefill of 256 tokens the result is
another one: `recent` with 102 slots has 202.4 instead of 191.8.)

With --weights, the formats of weights are compared instead, with the full cache and whole documents through prefill: the
table has the ratio of each format's perplexity to that of the first. int4:64 is int4 in groups of 64, fp8+fp8 has fp8
activations, too.

Prints a table and exits 1 if a figure is more than 1 % off the simulation's. The simulation is known only for
models/opt-demo and its own held-out text; use --no-check with anything else. The figures stand in docs/performance.md, and
tools/draw_pictures.py draws them.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
BUDGETS = (32, 64, 102, 205, 410)
# Simulated in numpy, float32, token by token, with the reference policy (tests/h2o_reference.py).
SIMULATED = {("full", None): 23.397}
SIMULATED |= {("h2o", budget): ppl for budget, ppl in zip(BUDGETS, (88.56, 59.793, 52.892, 34.738, 25.261))}
SIMULATED |= {("sink", budget): ppl for budget, ppl in zip(BUDGETS, (150.438, 115.243, 95.012, 69.971, 43.931))}
SIMULATED |= {("recent", budget): ppl for budget, ppl in zip(BUDGETS, (268.87, 211.41, 191.77, 158.03, 77.27))}
TOLERANCE = 0.01


def progress(items, **options):
    try:
        from tqdm import tqdm
        return tqdm(items, file=sys.stderr, **options)
    except ImportError:
        return items


def run(binary, *words):
    done = subprocess.run([str(binary), *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{binary} {' '.join(map(str, words))}: exit {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def read_documents(arguments, folder):
    """Token lists of `length` each: the first documents that are long enough."""
    with open(arguments.text, encoding="utf-8") as file:
        texts = [text for text in file.read().split("\0") if text.strip()]
    path = folder / "texts.jsonl"
    documents, begin, step = [], 0, 4 * arguments.documents
    while len(documents) < arguments.documents and begin < len(texts):  # a block at a time: the text may be large
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts[begin:begin + step]))
        tokens = [line["tokens"] for line in
                  run(arguments.binary, "tokenize", "--model", arguments.model, "--input", path)]
        documents += [row[:arguments.length] for row in tokens if len(row) >= arguments.length]
        begin += step
    if len(documents) < arguments.documents:
        sys.exit(f"{arguments.text}: {len(documents)} documents of at least {arguments.length} tokens among {len(texts)}; "
                 f"{arguments.documents} are needed")
    return documents[:arguments.documents]


def perplexity(arguments, path, *words):
    lines = run(arguments.binary, "logits", "--model", arguments.model, "--tp", arguments.tp, "--device", arguments.device,
                "--input", path, "--nll", *words)
    if [line["index"] for line in lines] != list(range(arguments.documents)):
        sys.exit(f"logits --nll answered {len(lines)} of {arguments.documents} documents, or in another order")
    # nll[0] is token 1's: of token t, counted from 0, it is nll[t - 1].
    values = [value for line in lines for value in line["nll"][arguments.skip - 1:]]
    if len(values) != arguments.documents * (arguments.length - arguments.skip):
        sys.exit(f"logits --nll gave {len(values)} values from token {arguments.skip} on, "
                 f"{arguments.documents * (arguments.length - arguments.skip)} are due")
    return math.exp(sum(values) / len(values))


def compare_weights(arguments, path):
    formats = arguments.weights.split(",")
    first = None
    print(f"{'weights':8} {'perplexity':>11} {'ratio':>8}")
    for name in progress(formats, unit="format"):
        weights, _, activations = name.partition("+")
        weights, _, group = weights.partition(":")
        ppl = perplexity(arguments, path, "--weights", weights, *(["--weight-group", group] if group else []),
                         *(["--activations", activations] if activations else []))
        first = first or ppl
        print(f"{name:8} {ppl:11.4f} {ppl / first:8.4f}", flush=True)


def compare_policies(arguments, path):
    """Whether every figure is within the tolerance of the simulation's."""
    budgets = [int(word) for word in arguments.budgets.split(",")]
    settings = [(policy, budget) for policy in arguments.policies.split(",")
                for budget in ([None] if policy == "full" else budgets)]
    results = {}
    for policy, budget in progress(settings, unit="setting"):
        results[policy, budget] = perplexity(arguments, path, "--prefill", arguments.prefill, "--kv-policy", policy,
                                             *(["--kv-budget", budget] if budget else []))
    print(f"{'policy':8} {'slots':>6} {'perplexity':>11} {'simulated':>10} {'difference':>11}")
    off = []
    for key, ppl in results.items():
        known = None if arguments.no_check else SIMULATED.get(key)
        difference = None if known is None else ppl / known - 1
        if difference is not None and not abs(difference) <= TOLERANCE:
            off.append(key)
        print(f"{key[0]:8} {key[1] or 'all':>6} {ppl:11.3f} " + ("" if known is None else
              f"{known:10.3f} {difference:+11.2%}{'  over 1 %' if key in off else ''}"))
    return not off


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--text", required=True, help="documents separated by NUL bytes")
    parser.add_argument("--binary", type=pathlib.Path, default=REPOSITORY / "build" / "release" / "bin" / "h2oserve")
    parser.add_argument("--model", type=pathlib.Path, default=REPOSITORY / "models" / "opt-demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--weights", help="formats of weights to compare, instead of policies")
    parser.add_argument("--policies", default="full,h2o,sink,recent")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a document, </s> included")
    parser.add_argument("--skip", type=int, default=256, help="tokens that are not scored")
    parser.add_argument("--prefill", type=int, default=1, help="tokens that go through prefill; the rest is decoded")
    parser.add_argument("--no-check", action="store_true", help="do not compare with the simulation")
    arguments = parser.parse_args()
    if not os.access(arguments.binary, os.X_OK):
        sys.exit(f"{arguments.binary} is not there: build it or give --binary")
    if not 1 <= arguments.skip < arguments.length:
        sys.exit(f"--skip {arguments.skip} must be from 1 to below --length {arguments.length}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        path = folder / "documents.jsonl"
        path.write_text("".join(json.dumps({"tokens": tokens}) + "\n"
                                for tokens in read_documents(arguments, folder)))
        right = True
        if arguments.weights is None:
            right = compare_policies(arguments, path)
        else:
            compare_weights(arguments, path)
    print(f"{arguments.documents} documents of {arguments.length} tokens, scored from token {arguments.skip}, "
          f"{time.monotonic() - started:.0f} s")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
