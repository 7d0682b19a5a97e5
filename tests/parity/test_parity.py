"""The proof that h2oserve is H2O: kept sets and tokens against the reference, and the same for every tp and batch.

The quick subset runs in two minutes on two cores: 20 % of H2O on every second prompt, the others on one prompt of each kind
and length. --full-matrix runs every policy on all 64 prompts, for tp 1 to 4, in one batch and alone. What is compared, and when a difference is a near tie, is said in check_trace.py.
"""
import dataclasses

import numpy as np
import pytest

import check_trace
from check_trace import KvOptions

CASES = {
    "h2o-20%": KvOptions("h2o", "20%"),
    "h2o-40": KvOptions("h2o", 40),
    "h2o-101": KvOptions("h2o", 101),
    "heavy-30-recent-7": KvOptions("h2o", heavy=30, recent=7),
    "flexgen-41": KvOptions("h2o", 41, prefill="flexgen"),
    "sink-40": KvOptions("sink", 40),
    "sink-20%": KvOptions("sink", "20%"),
    "recent-40": KvOptions("recent", 40),
    "recent-20%": KvOptions("recent", "20%"),
    "full": KvOptions("full"),
}


def pick(sequences, others):
    """Those of `sequences` that `others` has, so that a run of every n-th prompt can be compared with a whole one."""
    wanted = {sequence.index for sequence in others}
    return [sequence for sequence in sequences if sequence.index in wanted]


@pytest.mark.parametrize("case", CASES)
def test_kept_sets_and_tokens(case, runs, model, accept, full_matrix):
    options = CASES[case]
    main = case == "h2o-20%"
    every = 1 if full_matrix else 2 if main else 8
    first = runs.get(options, every=every)
    accept("tp 1, batch, against the reference", check_trace.check_run(model, first))
    if full_matrix:
        others = [(tp, alone, 1) for tp in (1, 2, 3, 4) for alone in (False, True) if (tp, alone) != (1, False)]
    elif main:
        others = [(2, False, 2), (3, False, 4), (4, False, 2), (1, True, 8), (3, True, 16)]
    else:
        others = [(3, False, 8), (1, True, 16)]
    for tp, alone, step in others:
        run = runs.get(options, tp, alone, step)
        what = f"tp {tp}, {'alone' if alone else 'batch'}"
        compared = check_trace.compare_runs(model, pick(first, run), run)
        accept(f"{what}, against tp 1, batch", compared)
        if compared.identical < compared.sequences:  # what is identical needs no second look
            accept(f"{what}, against the reference", check_trace.check_run(model, run))


def test_policies_share_a_batch(program, prompts, model, accept):
    """Each line of one batch has a policy of its own."""
    policies = [{"kv_policy": "h2o", "kv_budget": 40}, {"kv_policy": "full"}, {"kv_policy": "sink", "kv_budget": "20%"},
                {"kv_policy": "recent", "kv_budget": 33}, {"kv_policy": "h2o", "kv_budget": "30.5%"}]
    lines = [{**line, **policies[index % len(policies)], "max_tokens": 40 + index}
             for index, line in enumerate(prompts[::4])]
    first = program.traced(model, lines, KvOptions())
    assert [len(sequence.generated) for sequence in first] == [line["max_tokens"] for line in lines]
    accept("tp 1", check_trace.check_run(model, first))
    other = program.traced(model, lines, KvOptions(), tp=4)
    accept("tp 4 against tp 1", check_trace.compare_runs(model, first, other))


# ---- the edges of the algorithm -------------------------------------------------------------------------------------
EDGES = {  # prompt tokens, options, generated tokens
    "prompt below the budget": (20, KvOptions("h2o", 32), 40),
    "prompt one below the budget": (31, KvOptions("h2o", 32), 10),
    "prompt equal to the budget": (32, KvOptions("h2o", 32), 10),
    "prompt one above the budget": (33, KvOptions("h2o", 32), 10),
    "prompt of one token": (1, KvOptions("h2o", 8), 30),
    "prompt of one token, sinks": (1, KvOptions("sink", 8), 30),
    "no heavy slots": (30, KvOptions("h2o", heavy=0, recent=12), 40),
    "one recent slot": (30, KvOptions("h2o", heavy=11, recent=1), 40),
    "one slot": (9, KvOptions("recent", 1), 20),
    "one slot, h2o": (9, KvOptions("h2o", 1), 20),
    "two slots": (9, KvOptions("h2o", 2), 20),
    "one slot, sinks": (9, KvOptions("sink", 1), 20),
    "fewer slots than sinks": (9, KvOptions("sink", 3), 20),
    "budget that is never reached": (20, KvOptions("h2o", 500), 40),
    "budget that the last step fills": (20, KvOptions("h2o", 59), 40),
    "budget that the last step exceeds": (20, KvOptions("h2o", 58), 40),
    "one generated token": (50, KvOptions("h2o", 32), 1),
    "two generated tokens": (50, KvOptions("h2o", 32), 2),
    "slots reused many times": (5, KvOptions("h2o", 8), 400),
    "odd budget": (50, KvOptions("h2o", 33), 20),
    "flexgen, prompt below the budget": (20, KvOptions("h2o", 33, prefill="flexgen"), 30),
    "flexgen, prompt equal to the budget": (33, KvOptions("h2o", 33, prefill="flexgen"), 10),
    "flexgen, prompt one above": (34, KvOptions("h2o", 33, prefill="flexgen"), 10),
    "flexgen, three slots": (20, KvOptions("h2o", 3, prefill="flexgen"), 20),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge, program, prompts, model, accept):
    size, options, generated = EDGES[edge]
    longest = [line["tokens"] for line in prompts if len(line["tokens"]) >= size]
    lines = [{"tokens": tokens[:size]} for tokens in longest[-16::4]]
    first = program.traced(model, lines, options, max_tokens=generated)
    assert {len(sequence.generated) for sequence in first} == {generated}
    accept("tp 1", check_trace.check_run(model, first), summarise=False)
    other = program.traced(model, lines, options, tp=2, max_tokens=generated)
    accept("tp 2 against tp 1", check_trace.compare_runs(model, first, other), summarise=False)


@pytest.mark.parametrize("tp", [1, 3])
def test_a_budget_that_is_never_reached_is_bitwise_the_full_cache(tp, program, prompts):
    tokens = prompts[-1]["tokens"][:90]
    full = program.logits(tokens, "--prefill", 50, "--kv-policy", "full", tp=tp)
    for policy in ("h2o", "sink", "recent"):
        for budget in (90, 91, 200):
            logits = program.logits(tokens, "--prefill", 50, "--kv-policy", policy, "--kv-budget", budget, tp=tp)
            assert np.array_equal(full, logits), f"{policy} with {budget} slots: {np.abs(full - logits).max()}"


@pytest.mark.parametrize("tp", [1, 2])
def test_teacher_forced_logits_follow_the_reference(tp, program, prompts, model, accept):
    """`logits --prefill` with a trace: kept sets against the reference, logits within 1e-3."""
    tokens = prompts[-4]["tokens"]
    for options, prefill in ((KvOptions("h2o", 40), 100), (KvOptions("sink", 36), 1), (KvOptions("h2o", "30%"), 200)):
        trace = program.file(".trace.jsonl")
        logits = program.logits(tokens, "--prefill", prefill, *options.flags(), "--trace", trace, tp=tp)
        report = check_trace.Report()
        sequences = check_trace.read_logits(model, tokens, logits, trace, prefill, options, report)
        report = check_trace.check_run(model, sequences, report=report)
        accept(f"{' '.join(options.flags())} --prefill {prefill}", report, summarise=False)


# ---- seeded draws ---------------------------------------------------------------------------------------------------
SAMPLERS = [{"temperature": 0.8}, {"temperature": 0.8, "top_k": 20}, {"temperature": 0.8, "top_p": 0.9},
            {"temperature": 0.8, "top_k": 50, "top_p": 0.7}, {"temperature": 1.3, "top_k": 5}, {"temperature": 0.3}]


def test_seeded_draws_depend_on_neither_tp_nor_batch(program, prompts, model, accept, full_matrix):
    options = KvOptions("h2o", 40)
    every = 1 if full_matrix else 4
    lines = [{**line, **SAMPLERS[index % len(SAMPLERS)], "seed": 1000 + index}
             for index, line in enumerate(prompts[::every])]
    first = program.traced(model, lines, options, max_tokens=48)
    accept("tp 1, kept sets and draws", check_trace.check_run(model, first))
    for tp in 2, 3, 4:
        run = program.traced(model, lines, options, max_tokens=48, tp=tp)
        compared = check_trace.compare_runs(model, first, run)
        accept(f"tp {tp} against tp 1", compared)
        if compared.identical < compared.sequences:
            accept(f"tp {tp}, kept sets and draws", check_trace.check_run(model, run))
    for tp in (1, 2, 3, 4) if full_matrix else (1, 2):
        step = 1 if full_matrix else 4
        run = program.traced(model, lines[::step], options, max_tokens=48, tp=tp, alone=True)
        run = [dataclasses.replace(sequence, index=sequence.index * step) for sequence in run]
        accept(f"tp {tp} alone against tp 1 in a batch",
               check_trace.compare_runs(model, pick(first, run), run))


def test_seeds_and_samplers_mean_something(program, prompts):
    """Another seed draws other tokens, the same seed the same; top_k 1 is greedy."""
    line = prompts[-1]
    lines = [{**line, "temperature": 0.8, "seed": 1}, {**line, "temperature": 0.8, "seed": 1},
             {**line, "temperature": 0.8, "seed": 2}, {**line, "temperature": 0.8, "seed": 3, "top_k": 1}, line]
    one, again, other, narrow, greedy = [output["tokens"] for output in
                                         program.generate(lines, "--max-tokens", 32, "--ignore-eos")]
    assert one == again
    assert one != other
    assert narrow == greedy


# ---- the checker itself ---------------------------------------------------------------------------------------------
def test_a_wrong_trace_is_caught(runs, model, prompts):
    """Each thing that the checker claims to check, broken on purpose in a good run."""
    good = [sequence for sequence in runs.get(CASES["h2o-40"], every=8) if len(sequence.prompt) in (48, 230)][:1]
    original = good[0]
    assert not check_trace.check_run(model, good).verdict()
    size, step, place = len(original.prompt), 60, (2, 3)

    def copy(**changes):
        fresh = dataclasses.replace(original, kept=original.kept.copy(), victims=original.victims.copy(),
                                    generated=original.generated.copy(), usage=dict(original.usage))
        return dataclasses.replace(fresh, **changes)

    def stored(sequence, when):
        last = sequence.last_query()[place]
        return [position for position in range(size + when) if last[position] >= size + when]

    broken = {}
    token = copy()
    token.generated[20] = (token.generated[20] + 1) % 100 + 4
    broken["another token"] = token

    kept = copy()
    out, back = np.flatnonzero(kept.kept[place])[0], np.flatnonzero(~kept.kept[place])[0]
    kept.kept[place][[out, back]] = False, True
    kept.victims[place][kept.victims[place] == out] = back
    broken["another kept set after the prompt"] = kept

    now, later = (original.victims[place][step + offset] for offset in (0, 1))
    if later == size + step:  # the token that came in between cannot go first
        later = original.victims[place][step + 2]
    victims = original.victims.copy()
    at = int(np.flatnonzero(victims[place] == later)[0])
    victims[place][[step, at]] = later, now
    broken["two victims swapped"] = copy(victims=victims)

    recent = copy()
    newest = stored(original, step)[-1]
    where = np.flatnonzero(recent.victims[place] == newest)
    if len(where):
        recent.victims[place][where[0]] = recent.victims[place][step]
    recent.victims[place][step] = newest
    broken["a token of the recent window evicted"] = recent

    missing = copy()
    missing.victims[place][step] = -1
    broken["no eviction though full"] = missing

    twice = copy()
    twice.victims[place][step + 1] = twice.victims[place][step]
    broken["one token evicted twice"] = twice

    broken["a wrong count in usage"] = copy(usage={**original.usage, "tokens_evicted": 1})
    broken["a wrong charge in usage"] = copy(usage={**original.usage, "kv_bytes": original.usage["kv_bytes_full"]})
    broken["another policy"] = copy(policy=dataclasses.replace(original.policy, heavy=original.policy.heavy + 1,
                                                               recent=original.policy.recent - 1))
    for what, sequence in broken.items():
        report = check_trace.check_run(model, [sequence])
        assert report.failures, f"{what} went unnoticed: {report}"
        print(f"{what}: {report.failures[0]}")
        if what in ("another token", "two victims swapped", "another kept set after the prompt"):
            assert check_trace.compare_runs(model, good, [sequence]).failures, f"compare_runs did not see {what}"
