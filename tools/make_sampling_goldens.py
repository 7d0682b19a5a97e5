#!/usr/bin/env python3
"""Makes tests/golden/sampling/repetition_penalty.npz with transformers' RepetitionPenaltyLogitsProcessor.

    tools/make_sampling_goldens.py            # writes the file
    tools/make_sampling_goldens.py --check    # compares with the file instead

Needs torch and transformers (pip install torch transformers).
"""
import argparse
import pathlib
import sys

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "sampling" / "repetition_penalty.npz"
PENALTIES = (0.5, 1.0, 1.1, 1.3, 2.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a number differs by over 1e-6")
    arguments = parser.parse_args()
    try:
        import numpy as np
        import torch
        from transformers import RepetitionPenaltyLogitsProcessor
    except ImportError as error:
        sys.exit(f"{error}: this script needs torch and transformers")
    random = np.random.RandomState(5)  # its stream is frozen: the same numbers in every numpy
    logits = (4 * random.standard_normal((len(PENALTIES), 300))).astype(np.float32)
    tokens = random.randint(0, 60, (len(PENALTIES), 90))  # they repeat
    changed = np.concatenate([
        RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(row[None]), torch.tensor(scores[None])).numpy()
        for penalty, row, scores in zip(PENALTIES, tokens, logits)])
    if arguments.check:
        worst = max(float(np.abs(array - np.load(GOLDEN)[name]).max())
                    for name, array in {"logits": logits, "tokens": tokens, "changed": changed}.items())
        print(f"greatest difference: {worst:.2e}")
        return 1 if worst > 1e-6 else 0
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, logits=logits, tokens=tokens, changed=changed, penalties=np.array(PENALTIES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
