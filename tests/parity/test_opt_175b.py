"""OPT-175B's heads and structure at a width that fits a test: 96 heads over 8 ranks, and unevenly over 5 and 7.

Of what is divided only the heads by 8 come out even; every other slice, of projections, of the FFN and of the
vocabulary, is longer on some ranks than on others, and seldom a multiple of a row's padding.
"""
import math
import subprocess

import numpy as np
import pytest

import check_trace
import opt_numpy
from check_trace import PAGE_SLOTS, KvOptions

HEADS, HEAD_DIM, LAYERS = 96, 16, 3
CONFIG = {"num_attention_heads": HEADS, "hidden_size": HEAD_DIM * HEADS, "word_embed_proj_dim": HEAD_DIM * HEADS,
          "num_hidden_layers": LAYERS, "ffn_dim": 1021, "vocab_size": 331, "max_position_embeddings": 256,
          # As OPT-175B and all others but 350m.
          "activation_function": "relu", "do_layer_norm_before": True, "_remove_final_layer_norm": False,
          "enable_bias": True, "layer_norm_elementwise_affine": True, "tie_word_embeddings": True}
UNEVEN = [5, 7, 8]

# One batch of all policies: heads that are full after the prompt, some steps later, and never.
LINES = [(180, {"kv_policy": "h2o", "kv_budget": "20%"}), (60, {"kv_policy": "full"}),
         (90, {"kv_policy": "h2o", "kv_budget": 40}), (1, {"kv_policy": "h2o", "kv_budget": 24}),
         (48, {"kv_policy": "sink", "kv_budget": 36}), (20, {"kv_policy": "sink", "kv_budget": "50%"}),
         (33, {"kv_policy": "recent", "kv_budget": 33}), (120, {"kv_policy": "h2o", "kv_budget": "30.5%"}),
         (70, {"kv_policy": "h2o", "kv_budget": 33, "temperature": 0.8, "top_k": 50, "seed": 7}),
         (30, {"kv_policy": "recent", "kv_budget": 20, "temperature": 0.9, "seed": 8})]


@pytest.fixture(scope="module")
def narrow(program, tmp_path_factory):
    """h2oserve on the model, and the model in float64."""
    path = tmp_path_factory.mktemp("opt-175b-narrow")
    opt_numpy.write_random_checkpoint(path, CONFIG, seed=175, dtype="F16", embeddings=0.03)
    return type(program)(program.binary, path, program.folder), opt_numpy.Opt.load(path, np.float64)


@pytest.fixture(scope="module")
def first(narrow):
    """The run on one rank, which the others must repeat."""
    return run(narrow, tp=1)


def prompt(length):
    return [2] + np.random.RandomState(length).randint(4, CONFIG["vocab_size"], length - 1).tolist()


def run(narrow, tp):
    program, model = narrow
    lines = [{"tokens": prompt(length), "max_tokens": 40 + index, **policy}
             for index, (length, policy) in enumerate(LINES)]
    return program.traced(model, lines, KvOptions(), tp=tp)


def refused(program, *words):
    done = subprocess.run([program.binary, *map(str, words), "--model", program.model_path], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr


def test_one_rank_is_h2o(narrow, first, accept):
    for sequence, (_, policy) in zip(first, LINES):
        assert (sequence.victims >= 0).any() == (policy["kv_policy"] != "full")
    # A model that says one thing over and over would prove little.
    assert len({token for sequence in first for token in sequence.generated}) > 50
    accept("tp 1 against the reference", check_trace.check_run(narrow[1], first))


@pytest.mark.parametrize("tp", UNEVEN)
def test_the_same_tokens_and_kept_sets(tp, narrow, first, accept):
    other = run(narrow, tp)
    accept(f"tp {tp} against tp 1", check_trace.compare_runs(narrow[1], first, other))
    parted = [theirs for ours, theirs in zip(first, other) if check_trace.first_difference(ours, theirs)]
    if parted:
        accept(f"tp {tp}, what parted, against the reference", check_trace.check_run(narrow[1], parted))
    # The ranks' pages add up to those of one.
    assert [sequence.usage["kv_bytes"] for sequence in other] == [sequence.usage["kv_bytes"] for sequence in first]


@pytest.mark.parametrize("tp", UNEVEN)
def test_teacher_forced_logits(tp, narrow, accept):
    program, model = narrow
    options, tokens, prefill, trace = KvOptions("h2o", 40), prompt(100), 60, program.file(".trace.jsonl")
    logits = program.logits(tokens, "--prefill", prefill, *options.flags(), "--trace", trace, tp=tp)
    report = check_trace.Report()
    sequences = check_trace.read_logits(model, tokens, logits, trace, prefill, options, report)
    accept(f"tp {tp}", check_trace.check_run(model, sequences, report=report), summarise=False)


@pytest.mark.parametrize("tp", UNEVEN)
def test_admission_is_exact_on_the_rank_with_most_heads(tp, narrow):
    """Rank 0 has the most heads. Its pages for one sequence serve any number, one after another; one less serves none.
    """
    program, _ = narrow
    lines = [{"tokens": prompt(30), "max_tokens": 40}] * 3
    pages = LAYERS * math.ceil(HEADS / tp) * math.ceil((30 + 40 - 1) / PAGE_SLOTS)
    page_bytes = math.ceil(PAGE_SLOTS * (2 * HEAD_DIM * 4 + 4 + 2) / 128) * 128  # keys, values, scores, positions, in lines
    outputs = program.generate(lines, "--ignore-eos", "--kv-pool-bytes", pages * page_bytes, tp=tp)
    assert [len(output["tokens"]) for output in outputs] == [40] * 3
    error = refused(program, "generate", "--tp", tp, "--input", program.write_lines(lines), "--kv-pool-bytes",
                    pages * page_bytes - 1)
    assert f"needs {pages} KV pages on rank 0" in error and f"has {pages - 1}" in error


def test_97_ranks_are_refused(narrow):
    for command in (["generate", "--tokens", 2], ["bench"]):
        error = refused(narrow[0], *command, "--tp", 97)
        assert "tensor parallel size 97" in error and "every rank needs a head" in error and "from 1 to 96" in error


def test_bench_runs_on_uneven_ranks(narrow):
    report, = narrow[0].json_lines("bench", "--model", narrow[0].model_path, "--tp", 7, "--num-seqs", 3, "--prompt-len",
                                   50, "--gen-len", 12, "--kv-policy", "h2o", "--kv-budget", 32, "--json")
    assert report["tp"] == 7 and report["fraction_of_floor"] > 0
