#!/usr/bin/env python3
"""Makes tests/golden/loglikelihoods.json: 200 lines of text, and how likely transformers finds the end of each.

    tools/make_loglikelihood_goldens.py             # writes the file
    tools/make_loglikelihood_goldens.py --check     # computes its lines again and compares

Each line is cut in two, as lm-eval's tasks have a context and a continuation: half a line, or one token. Needs torch
and transformers.
"""
import argparse
import json
import pathlib
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden" / "loglikelihoods.json"
NUM_LINES = 200


def new_lines():
    """Lines of this repository's documentation."""
    lines = [line for page in sorted((REPOSITORY / "docs").glob("*.md")) for line in page.read_text().splitlines()]
    return [line for line in dict.fromkeys(lines) if 40 < len(line) < 200][::3][:NUM_LINES]


def computed(lines):
    import torch
    import transformers
    folder = REPOSITORY / "models" / "opt-demo"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    rows = []
    for number, line in enumerate(lines):
        tokens = tokenizer(line)["input_ids"]
        cut = len(tokens) // 2 if number % 2 else len(tokens) - 1
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), -1)
        behind = range(cut, len(tokens))
        rows.append({"text": line, "tokens": tokens, "context": cut,
                     "loglikelihood": sum(float(logprobs[i - 1, tokens[i]]) for i in behind),
                     "is_greedy": all(int(logprobs[i - 1].argmax()) == tokens[i] for i in behind)})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a number differs by over 1e-3")
    arguments = parser.parse_args()
    if not arguments.check:
        rows = computed(new_lines())
        GOLDEN.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
        return 0
    golden = json.loads(GOLDEN.read_text())
    worst = max(abs(row["loglikelihood"] - old["loglikelihood"])
                for row, old in zip(computed([old["text"] for old in golden]), golden))
    print(f"greatest difference: {worst:.2e}")
    return 1 if worst > 1e-3 else 0


if __name__ == "__main__":
    sys.exit(main())
