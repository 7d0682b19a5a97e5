#!/usr/bin/env python3
"""Makes tests/golden/logits/*.npy: the logits of Hugging Face's OPTForCausalLM in float32 on the CPU.

    tools/make_logits_goldens.py            # writes the files
    tools/make_logits_goldens.py --check    # compares with the files instead

The tiny models are made from their seeds (tests/golden/logits/cases.py). models/opt-demo is read as it is.
Needs torch, transformers and, for weights of codes, compressed-tensors: tools/install_dependencies.sh --transformers has
them in build/transformers/venv.
"""
import argparse
import pathlib
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden" / "logits"
sys.path[:0] = [str(GOLDEN), str(REPOSITORY / "tests")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs by over 1e-4")
    arguments = parser.parse_args()
    try:
        import numpy as np
        import torch
        import transformers
        from tqdm import tqdm
    except ImportError as error:
        sys.exit(f"{error}: the golden logits come from transformers; this script needs torch, transformers and tqdm")
    import cases
    import coded_checkpoint
    import opt_numpy
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def logits(directory, tokens):
        model, info = transformers.OPTForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        lost = {key: names for key, names in info.items() if names and key in
                ("missing_keys", "unexpected_keys", "mismatched_keys")}
        if set(lost.pop("missing_keys", ())) - {"lm_head.weight"} or lost:
            sys.exit(f"{directory}: transformers did not take the checkpoint whole: {info}")
        with torch.inference_mode():
            return model.eval()(input_ids=torch.tensor(tokens)).logits.numpy()

    worst = 0.0

    def keep(name, array):
        nonlocal worst
        path = GOLDEN / f"{name}.npy"
        if not arguments.check:
            np.save(path, array)
            return
        if not path.exists():
            sys.exit(f"{path} is missing; run without --check")
        worst = max(worst, float(np.abs(np.load(path) - array).max()))

    for case in tqdm(cases.CASES, unit="model"):
        with tempfile.TemporaryDirectory() as directory:
            opt_numpy.write_random_checkpoint(directory, case.config, case.seed, case.dtype, case.shards, case.prefix)
            keep(case.name, logits(directory, [case.tokens])[0])
    for layout in cases.CODED_LAYOUTS:
        with tempfile.TemporaryDirectory() as directory:
            coded_checkpoint.write_random(directory, cases.CODED, layout)
            keep(f"coded_{layout}", np.ascontiguousarray(logits(directory, [cases.CODED.tokens])[0, -cases.CODED_ROWS:]))
    demo = REPOSITORY / "models" / "opt-demo"
    whole = logits(demo, cases.demo_prompts(opt_numpy.Opt.load(demo).config["vocab_size"]))
    keep("opt_demo_columns", np.ascontiguousarray(whole[:, :, ::cases.DEMO_COLUMNS]))
    keep("opt_demo_last_rows", np.ascontiguousarray(whole[:, -1]))
    if arguments.check:
        print(f"greatest difference: {worst:.2e}")
        return 1 if worst > 1e-4 else 0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: "
          f"{sum(path.stat().st_size for path in GOLDEN.glob('*.npy')) / 1e6:.2f} MB in {GOLDEN}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
