#!/usr/bin/env python3
"""How fast Hugging Face transformers decodes and prefills an OPT model on this machine's CPU.

The baseline for h2oserve's own benchmarks. Full KV cache, torch.inference_mode, the default attention (sdpa). Prints one
JSON line for each figure on stdout, progress on stderr:

    tools/hf_baseline.py --model models/opt-demo --dtype both --batch 1,16,64
    tools/hf_baseline.py --model opt-1.3b --dtype both --batch 1,16 --gen-len 8     # random weights, no download

Needs torch and transformers (pip install torch transformers tqdm).
"""
import argparse
import json
import os
import statistics
import sys
import time

# layers, hidden, heads, ffn, word_embed_proj_dim, do_layer_norm_before
SIZES = {
    "opt-125m": (12, 768, 12, 3072, 768, True),
    "opt-350m": (24, 1024, 16, 4096, 512, False),
    "opt-1.3b": (24, 2048, 32, 8192, 2048, True),
    "opt-2.7b": (32, 2560, 32, 10240, 2560, True),
    "opt-6.7b": (32, 4096, 32, 16384, 4096, True),
    "opt-13b": (40, 5120, 40, 20480, 5120, True),
    "opt-30b": (48, 7168, 56, 28672, 7168, True),
}


def numbers(text):
    try:
        values = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of numbers, such as 1,16,64")
    if any(value < 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: every number must be at least 1")
    return values


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True,
                        help="a Hugging Face directory, or a built-in size with random weights: " + ", ".join(SIZES))
    parser.add_argument("--dtype", choices=["float32", "bf16", "both"], default="both")
    parser.add_argument("--batch", type=numbers, default=[1, 16, 64], help="decode batches (default 1,16,64)")
    parser.add_argument("--prompt-len", type=int, default=128, help="prompt before the decode steps (default 128)")
    parser.add_argument("--gen-len", type=int, default=64, help="decode steps timed (default 64)")
    parser.add_argument("--prefill", type=numbers, default=[512, 2000], metavar="LENGTHS",
                        help="prompt lengths whose prefill is timed (default 512,2000; an empty string for none)")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each figure; the best is reported (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def load(torch, transformers, name, dtype):
    if os.path.isdir(name):
        return transformers.OPTForCausalLM.from_pretrained(name, dtype=dtype).eval()
    if name not in SIZES:
        sys.exit(f"--model {name}: neither a directory nor one of {', '.join(SIZES)}")
    layers, hidden, heads, ffn, projection, pre_norm = SIZES[name]
    config = transformers.OPTConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, ffn_dim=ffn, vocab_size=50272,
        word_embed_proj_dim=projection, do_layer_norm_before=pre_norm, max_position_embeddings=2048)
    # The default initialisation is slow and single-threaded: skip it and fill the weights with one cheap distribution.
    with torch.device("meta"):
        model = transformers.OPTForCausalLM(config)
    model = model.to(dtype).to_empty(device="cpu")
    model.tie_weights()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.uniform_(-0.02, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if key.endswith("norm.weight") else 0.0)
    return model.eval()


def main():
    arguments = parse_arguments()
    try:
        import torch
        import transformers
        from tqdm import tqdm
    except ImportError as error:
        sys.exit(f"{error}: this script measures transformers and needs torch, transformers and tqdm installed")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16}
    names = list(dtypes) if arguments.dtype == "both" else [arguments.dtype]
    total = len(names) * arguments.repeat * (len(arguments.batch) + len(arguments.prefill))
    bar = tqdm(total=total, unit="run", file=sys.stderr)

    def report(**figure):
        with tqdm.external_write_mode(file=sys.stdout):
            print(json.dumps(figure), flush=True)

    for name in names:
        bar.set_description(f"{name}: load")
        model = load(torch, transformers, arguments.model, dtypes[name])
        vocabulary = model.config.vocab_size
        common = {"model": arguments.model, "dtype": name, "threads": arguments.threads,
                  "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}

        def prompt(batch, length):
            generator = torch.Generator().manual_seed(length)
            ids = torch.randint(4, vocabulary, (batch, length), generator=generator)
            ids[:, 0] = 2
            return ids

        def prefill(ids):
            # A batch without padding needs no mask. Only the last position's logits are computed, as generate() does.
            return model(input_ids=ids, use_cache=True, logits_to_keep=1)

        with torch.inference_mode():
            prefill(prompt(1, 16))
            for batch in arguments.batch:
                bar.set_description(f"{name}: decode, batch {batch}")
                runs = []
                for _ in range(arguments.repeat):
                    output = prefill(prompt(batch, arguments.prompt_len))
                    token = output.logits[:, -1].argmax(-1, keepdim=True)
                    cache = output.past_key_values
                    steps = []
                    for _ in range(arguments.gen_len):
                        start = time.perf_counter()
                        output = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
                        token = output.logits[:, -1].argmax(-1, keepdim=True)
                        cache = output.past_key_values
                        steps.append(time.perf_counter() - start)
                    runs.append(statistics.mean(steps))
                    bar.update()
                best = min(runs)
                report(**common, figure="decode", batch=batch, prompt_len=arguments.prompt_len,
                       gen_len=arguments.gen_len, ms_per_step=round(best * 1e3, 3),
                       tokens_per_s=round(batch / best, 1))
                del cache, output
            for length in arguments.prefill:
                bar.set_description(f"{name}: prefill of {length}")
                runs = []
                ids = prompt(1, length)
                for _ in range(arguments.repeat):
                    start = time.perf_counter()
                    prefill(ids)
                    runs.append(time.perf_counter() - start)
                    bar.update()
                report(**common, figure="prefill", batch=1, prompt_len=length, ms=round(min(runs) * 1e3, 2),
                       tokens_per_s=round(length / min(runs), 1))
        del model
    bar.close()


if __name__ == "__main__":
    main()
