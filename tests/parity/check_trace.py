#!/usr/bin/env python3
"""Is this H2O? Checks what h2oserve wrote with --json and --trace against the reference policy.

    h2oserve generate --model M --input prompts.jsonl --kv-policy h2o --kv-budget 20% --json --trace t.jsonl > out.jsonl
    check_trace.py --model M --input prompts.jsonl --output out.jsonl --trace t.jsonl --kv-policy h2o --kv-budget 20%

    h2oserve logits --model M --tokens "2 11 12 13" --prefill 2 --kv-policy recent --kv-budget 32 --out l.npy --trace t.jsonl
    check_trace.py --model M --tokens "2 11 12 13" --prefill 2 --kv-policy recent --kv-budget 32 --logits l.npy --trace t.jsonl

How. The trace says which tokens each head attended at each step. Given those sets, one teacher-forced pass of
tests/opt_numpy.py, in float64, yields the attention probabilities and logits that the run must have had. The reference
(tests/h2o_reference.py) is fed those probabilities and must name the same kept set after the prompt and the same victim
after every step; where it names another, the two must be a near tie, and the check goes on from the run's choice, so one
near tie does not cascade.

What is checked, of every sequence:
  (a) the kept set of every layer and head, after the prompt and after every step, against the reference;
  (b) sinks and the recent window are always kept;
  (c) every query's probabilities, over kept + itself, sum to one, so scores of kept and evicted tokens together equal
      the number of queries;
  (d) each greedy token is the argmax of the logits, or within the logit tolerance of it; each token drawn with a seed
      is the one that the counter-based generator draws from the logits;
  (e) no eviction before a head is full, exactly one a step from then on, never of a token that is not there;
  (f) usage: slots held, tokens evicted and the charge in pages, as the budget says;
  (g) usage: the share of the attention that stored tokens have received.

Near ties: scores closer than 1e-5 of themselves, logits closer than 1e-4, draws that noise of 1e-4 on the logits moves
to the other token. `near_ties` counts the decisions that were that close (of draws, those only that differ), `excused`
those of them in which the run and the reference differ. Excused may be 1 in 1,000.
"""
import argparse
import dataclasses
import decimal
import json
import os
import sys
import typing
from collections import defaultdict

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import h2o_reference  # noqa: E402
import opt_numpy  # noqa: E402

PAGE_SLOTS = 32
EVERYTHING = 1 << 30


# ---- policies: the arithmetic of budgets ----------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Policy:
    """What one sequence keeps: `sinks` first tokens, `heavy` by score, `recent` newest. `flexgen`: its prefill rule."""
    sinks: int
    heavy: int
    recent: int
    flexgen: bool = False
    scored: bool = False  # also where `heavy` is 0

    @property
    def budget(self):
        return self.sinks + self.heavy + self.recent


@dataclasses.dataclass(frozen=True)
class KvOptions:
    """The --kv-* flags of a run; `kv_policy` and `kv_budget` of an input line override them."""
    policy: str = "full"
    budget: str | int | None = None
    heavy: int | None = None
    recent: int | None = None
    prefill: str | None = None

    def flags(self):
        values = {"--kv-policy": self.policy, "--kv-budget": self.budget, "--kv-heavy": self.heavy,
                  "--kv-recent": self.recent, "--kv-prefill": self.prefill}
        return [word for flag, value in values.items() if value is not None for word in (flag, str(value))]

    def for_line(self, line):
        """The options of one input line; a policy of its own leaves the run's budget behind."""
        if "kv_policy" not in line and "kv_budget" not in line:
            return self
        if "kv_policy" in line:
            return KvOptions(line["kv_policy"], line.get("kv_budget"))
        return dataclasses.replace(self, budget=line["kv_budget"])

    def slots(self, prompt_tokens):
        """The budget C of a prompt: tokens, or a share of the prompt but at least one page."""
        budget = "20%" if self.budget is None else str(self.budget)
        if not budget.endswith("%"):
            return int(budget)
        thousandths = int((decimal.Decimal(budget[:-1]) * 1000).to_integral_value())
        return max(prompt_tokens * thousandths // 100_000, PAGE_SLOTS)

    def resolve(self, prompt_tokens):
        if self.policy == "full":
            return Policy(0, 0, EVERYTHING)
        if self.heavy is not None or self.recent is not None:
            if self.heavy is not None and self.recent is not None:
                return Policy(0, self.heavy, self.recent, scored=True)
            slots = self.slots(prompt_tokens)
            heavy = self.heavy if self.heavy is not None else slots - self.recent
            return Policy(0, heavy, slots - heavy, scored=True)
        slots = self.slots(prompt_tokens)
        if self.policy == "recent":
            return Policy(0, 0, slots)
        if self.policy == "sink":
            sinks = min(4, slots - 1)
            return Policy(sinks, 0, slots - sinks)
        if self.policy == "h2o":
            return Policy(0, slots // 2, slots - slots // 2, self.prefill == "flexgen", scored=True)
        raise ValueError(f"unknown policy {self.policy!r}")


class PinnedH2O(h2o_reference.H2O):
    """The reference with sinks: the first `sinks` positions have an infinite score."""

    def __init__(self, sinks, heavy, recent):
        super().__init__(sinks + heavy, recent)
        self.sinks = sinks

    def _evict(self):
        if self.sinks:
            self.acc = np.where(self.pos < self.sinks, np.inf, self.acc)
        super()._evict()


def reference(policy, prompt_tokens):
    if policy.flexgen and prompt_tokens > policy.budget:
        return h2o_reference.H2OFlexGen(policy.recent)  # which decodes with (recent - 1, recent)
    return PinnedH2O(policy.sinks, policy.heavy, policy.recent)


# ---- draws: the program's sampler, a second time --------------------------------------------------------------------
def philox(key, counter):
    """Philox4x32-10 (Salmon et al., 2011): four 32-bit numbers of a 2-word key and a 4-word counter."""
    mask = 0xFFFFFFFF
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


@dataclasses.dataclass(frozen=True)
class Sampling:
    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 0.0

    def draw(self, logits, index):
        """The token with this index of the generated ones. The program's flags are float32."""
        words = philox((self.seed & 0xFFFFFFFF, self.seed >> 32), (index & 0xFFFFFFFF, index >> 32, 0, 0))
        uniform = (((words[0] << 32) | words[1]) >> 11) * 2.0 ** -53
        tokens = np.argsort(-logits, kind="stable")[:self.top_k or None]
        weights = np.exp((logits[tokens] - logits[tokens[0]]) / float(np.float32(self.temperature)))
        if 0 < self.top_p < 1:
            sums = np.cumsum(weights)
            kept = max(int(np.searchsorted(sums, float(np.float32(self.top_p)) * weights.sum())) + 1, 1)
            tokens, weights = tokens[:kept], weights[:kept]
        else:  # in the order of their ids
            order = np.argsort(tokens)
            tokens, weights = tokens[order], weights[order]
        sums = np.cumsum(weights)
        return int(tokens[min(np.searchsorted(sums, uniform * sums[-1], side="right"), len(tokens) - 1)])

    def draws_nearby(self, logits, index, tolerance):
        """Every token that is drawn from logits with a little noise on them."""
        noise = np.random.RandomState(index)
        return {self.draw(logits + noise.uniform(-tolerance, tolerance, logits.shape), index) for _ in range(100)}


# ---- a run, as the program tells it ---------------------------------------------------------------------------------
@dataclasses.dataclass
class Sequence:
    """One prompt's run. Arrays cover every layer and head of the model."""
    index: int
    prompt: np.ndarray  # [S]
    generated: np.ndarray  # [G]; for `logits`, the tokens after the prefill and one that is not checked
    policy: Policy
    kept: np.ndarray  # bool [layers, heads, S]: kept after the prompt
    victims: np.ndarray  # int [layers, heads, G - 1]: evicted in each step, -1 for none
    greedy: bool = True
    sampling: Sampling | None = None  # of tokens drawn with a seed
    usage: dict | None = None
    max_tokens: int | None = None
    logits: np.ndarray | None = None  # of `logits`: [S + G - 1, vocabulary]
    stored_scores: float = 0  # over layers and heads, at the end: what the check has found

    @property
    def tokens(self):
        """Every token that was processed, [S + G - 1]: the last generated one never is."""
        return np.concatenate([self.prompt, self.generated[:-1]])

    def last_query(self):
        """int [layers, heads, T]: the last query that attended each position."""
        layers, heads, size = self.kept.shape
        last = np.full((layers, heads, size + self.victims.shape[2]), EVERYTHING)
        last[:, :, :size][~self.kept] = size - 1
        layer, head, step = np.nonzero(self.victims >= 0)
        last[layer, head, self.victims[layer, head, step]] = size + step
        return last


class Counts:
    def add(self, other):
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


@dataclasses.dataclass
class Report(Counts):
    """Counts of a check; `failures` is empty if everything held."""
    EXCUSED_ONE_IN: typing.ClassVar[int] = 1000  # decisions, and tokens, at most
    sequences: int = 0
    decisions: int = 0  # kept sets and victims that the reference was asked about
    near_ties: int = 0
    excused: int = 0
    tokens: int = 0
    token_near_ties: int = 0
    tokens_excused: int = 0
    failures: list = dataclasses.field(default_factory=list)

    def fail(self, message):
        self.failures.append(message)

    def verdict(self):
        """The failures, and one more if too much was excused."""
        failures = list(self.failures)
        for what, excused, total in (("decisions", self.excused, self.decisions),
                                     ("tokens", self.tokens_excused, self.tokens)):
            if excused * self.EXCUSED_ONE_IN > max(total, 1000):
                failures.append(f"{excused} of {total} {what} excused as near ties; 1 in {self.EXCUSED_ONE_IN} may be")
        return failures

    def __str__(self):
        return (f"{self.sequences} sequences: {self.decisions} decisions, {self.near_ties} near ties, "
                f"{self.excused} excused; {self.tokens} tokens, {self.token_near_ties} near ties, "
                f"{self.tokens_excused} excused; {len(self.failures)} failures")


def read_lines(path):
    with open(path) as file:
        text = file.read()
    return json.loads("[" + ",".join(line for line in text.split("\n") if line.strip()) + "]")


def sampling_of(line):
    if not line.get("temperature") or "seed" not in line:
        return None
    return Sampling(line["temperature"], line["seed"], line.get("top_k", 0), line.get("top_p", 0.0))


def read_traces(path, layers, heads, prompt_sizes, report):
    """{seq: (kept, victims)} of a trace file, every line of it accounted for."""
    kept_rows, victim_rows = defaultdict(dict), defaultdict(lambda: defaultdict(list))
    for record in read_lines(path):
        key = record["layer"], record["head"]
        if "kept" in record:
            if key in kept_rows[record["seq"]] or key in victim_rows[record["seq"]]:
                report.fail(f"trace: seq {record['seq']} layer {key[0]} head {key[1]}: a kept set that comes too late")
            kept_rows[record["seq"]][key] = record["kept"]
        else:
            victim_rows[record["seq"]][key].append((record["pos"], record["evicted"]))
    wanted = {(layer, head) for layer in range(layers) for head in range(heads)}
    traces = {}
    for seq in sorted(set(kept_rows) | set(victim_rows) | set(prompt_sizes)):
        if seq not in prompt_sizes:
            report.fail(f"trace: seq {seq} is not in the input")
            continue
        rows, steps, size = kept_rows[seq], victim_rows[seq], prompt_sizes[seq]
        if set(rows) != wanted or not set(steps) <= wanted:
            report.fail(f"trace: seq {seq}: kept sets of {len(rows)} (layer, head) pairs, steps of {len(steps)}; "
                        f"the model has {len(wanted)}")
            continue
        counts = {len(steps[key]) for key in wanted} if steps else {0}
        if len(counts) != 1:
            report.fail(f"trace: seq {seq}: between {min(counts)} and {max(counts)} steps, depending on the head")
            continue
        count = counts.pop()
        kept = np.zeros((layers, heads, size), bool)
        victims = np.full((layers, heads, count), -1)
        positions = list(range(size, size + count))
        torn = False
        for key in wanted:
            row = np.asarray(rows[key], int)
            if len(row) and (row.min() < 0 or row.max() >= size or (np.diff(row) <= 0).any()):
                report.fail(f"trace: seq {seq} layer {key[0]} head {key[1]}: kept {rows[key]} is not an ascending list "
                            f"of positions below {size}")
                torn = True
                continue
            kept[key][row] = True
            if count:
                seen, evicted = zip(*steps[key])
                if list(seen) != positions:
                    report.fail(f"trace: seq {seq} layer {key[0]} head {key[1]}: steps at {list(seen)[:5]}.. instead of "
                                f"{size}..{size + count - 1}")
                    torn = True
                    continue
                victims[key] = [-1 if victim is None else victim for victim in evicted]
        if not torn:
            traces[seq] = kept, victims
    return traces


def read_generate(model, lines, outputs, trace_path, options=KvOptions(), max_tokens=None, report=None):
    """The sequences of `generate --input lines --json --trace`. Broken records become failures of the report."""
    report = Report() if report is None else report
    outputs = read_lines(outputs) if isinstance(outputs, (str, os.PathLike)) else outputs
    indices = [output["index"] for output in outputs]
    if indices != list(range(len(lines))):
        report.fail(f"--json: indices {indices[:5]}.. of {len(indices)} are not those of the {len(lines)} input lines")
        return []
    traces = read_traces(trace_path, model.layers, model.heads,
                         {index: len(line["tokens"]) for index, line in enumerate(lines)}, report)
    sequences = []
    for index, (line, output) in enumerate(zip(lines, outputs)):
        if index not in traces:
            continue
        kept, victims = traces[index]
        if not output["tokens"]:
            report.fail(f"seq {index}: no tokens, finish_reason {output.get('finish_reason')!r}")
            continue
        if victims.shape[2] != len(output["tokens"]) - 1:
            report.fail(f"seq {index}: {victims.shape[2]} steps in the trace of {len(output['tokens'])} tokens")
            continue
        sequences.append(Sequence(
            index=index, prompt=np.asarray(line["tokens"]), generated=np.asarray(output["tokens"]),
            policy=options.for_line(line).resolve(len(line["tokens"])), kept=kept, victims=victims,
            greedy=not line.get("temperature"), sampling=sampling_of(line), usage=output.get("usage"),
            max_tokens=line.get("max_tokens", max_tokens)))
    return sequences


def read_logits(model, tokens, logits, trace_path, prefill, options=KvOptions(), report=None):
    """The one sequence of `logits --tokens .. --prefill P --out .. --trace ..`."""
    report = Report() if report is None else report
    traces = read_traces(trace_path, model.layers, model.heads, {0: prefill}, report)
    if 0 not in traces:
        return []
    kept, victims = traces[0]
    if victims.shape[2] != len(tokens) - prefill:
        report.fail(f"{victims.shape[2]} steps in the trace of {len(tokens)} tokens after a prefill of {prefill}")
        return []
    return [Sequence(index=0, prompt=np.asarray(tokens[:prefill]), generated=np.asarray(list(tokens[prefill:]) + [-1]),
                     policy=options.resolve(prefill), kept=kept, victims=victims, greedy=False, logits=logits)]


# ---- the check ------------------------------------------------------------------------------------------------------
def check_shape(sequence, report):
    """(e), (f): counts, which need no arithmetic. True if the rest can be checked."""
    size, steps, budget = len(sequence.prompt), sequence.victims.shape[2], sequence.policy.budget
    name = f"seq {sequence.index} (prompt {size})"
    before = len(report.failures)
    for layer, head in np.argwhere(sequence.kept.sum(-1) != min(size, budget)):
        report.fail(f"{name} layer {layer} head {head}: keeps {sequence.kept[layer, head].sum()} after the prompt, "
                    f"its budget says {min(size, budget)}")
    for step in range(steps):
        full = min(size, budget) + step >= budget
        for layer, head in np.argwhere((sequence.victims[:, :, step] >= 0) != full):
            report.fail(f"{name} layer {layer} head {head} pos {size + step}: "
                        f"{'no eviction though full' if full else 'an eviction before it was full'}")
    layers, heads, _ = sequence.kept.shape
    for layer in range(layers):
        for head in range(heads):
            victims = sequence.victims[layer, head]
            taken = victims[victims >= 0]
            if len(np.unique(taken)) != len(taken):
                report.fail(f"{name} layer {layer} head {head}: a token is evicted twice")
            elif (victims > np.arange(size, size + steps)).any():
                report.fail(f"{name} layer {layer} head {head}: a token is evicted before it came")
            elif not sequence.kept[layer, head][taken[taken < size]].all():
                report.fail(f"{name} layer {layer} head {head}: a token is evicted that was not kept after the prompt")
    usage = sequence.usage
    if usage is not None:
        total = size + steps
        held = min(total, budget)
        expected = {"prompt_tokens": size, "completion_tokens": len(sequence.generated), "kv_slots_held": held,
                    "tokens_evicted": total - held}
        for key, value in expected.items():
            if usage.get(key) != value:
                report.fail(f"{name}: usage says {key} {usage.get(key)}, it is {value}")
        if sequence.max_tokens is not None and usage.get("kv_bytes_full"):
            stored = size + sequence.max_tokens - 1
            pages, pages_full = -(-min(stored, budget) // PAGE_SLOTS), -(-stored // PAGE_SLOTS)
            if usage["kv_bytes"] * pages_full != usage["kv_bytes_full"] * pages:
                report.fail(f"{name}: charged {usage['kv_bytes']} bytes of {usage['kv_bytes_full']} under full; "
                            f"{pages} of {pages_full} pages a head are due")
    return len(report.failures) == before


def relative_gap(larger, smaller):
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(larger), (larger - smaller) / np.maximum(np.abs(larger), 1e-30), np.inf)


def follow(policy, sequences, layer, probabilities, report, tolerance):
    """(a), (b), (c) for one layer of sequences with equal shape and policy; probabilities [n, heads, T, T]."""
    count, heads, total, _ = probabilities.shape
    size = len(sequences[0].prompt)
    steps, rows, budget = total - size, count * heads, policy.budget
    attention = probabilities.reshape(rows, total, total)
    kept = np.stack([sequence.kept[layer] for sequence in sequences]).reshape(rows, size)
    victims = np.stack([sequence.victims[layer] for sequence in sequences]).reshape(rows, steps)

    def name(row):
        sequence = sequences[row // heads]
        return f"seq {sequence.index} (prompt {len(sequence.prompt)}) layer {layer} head {row % heads}"

    sums = attention.sum(-1)
    for row, query in np.argwhere(np.abs(sums - 1) > 1e-5)[:3]:
        report.fail(f"{name(row)}: probabilities of query {query} sum to {sums[row, query]}")
    if total <= budget:
        for sequence in sequences:  # check_shape saw that nothing was evicted
            sequence.stored_scores += heads * total
        return

    oracle = reference(policy, size)
    oracle.prefill(attention[:, :size, :size])
    scores = attention[:, :size].sum(1)[:, :size]
    if size > budget:
        report.decisions += rows
        ours = np.zeros((rows, size), bool)
        np.put_along_axis(ours, oracle.pos, True, 1)
        window = policy.recent - policy.flexgen
        candidates = ours.copy()
        candidates[:, size - window:] = False
        candidates[:, :policy.sinks] = False
        losers = ~ours
        if policy.heavy:
            gaps = relative_gap(np.where(candidates, scores, np.inf).min(1), np.where(losers, scores, 0).max(1))
            report.near_ties += int((gaps <= tolerance).sum())
        for row in np.flatnonzero((ours != kept).any(1)):
            wanted, got = np.flatnonzero(ours[row] & ~kept[row]), np.flatnonzero(kept[row] & ~ours[row])
            pinned = [position for position in wanted if position >= size - window or position < policy.sinks]
            gap = relative_gap(scores[row, wanted].max(), scores[row, got].min())
            if pinned:
                report.fail(f"{name(row)} after the prompt: {pinned} of the recent window or the sinks not kept")
            elif gap <= tolerance:
                report.excused += 1
            else:
                report.fail(f"{name(row)} after the prompt: keeps {got[:5]} (scores {scores[row, got][:5]}) instead of "
                            f"{wanted[:5]} ({scores[row, wanted][:5]}), a gap of {gap:.2e}")
            oracle.pos[row] = np.flatnonzero(kept[row])
            oracle.acc[row] = scores[row, oracle.pos[row]]

    for step in range(steps):
        query = size + step
        before = oracle.attended()
        p = np.take_along_axis(attention[:, query], before, 1)
        now = np.c_[oracle.acc, np.zeros(rows)] + p
        oracle.step(p)
        if before.shape[1] <= budget:
            continue
        report.decisions += rows
        if policy.sinks:
            now[before < policy.sinks] = np.inf
        candidates = now[:, :before.shape[1] - policy.recent]
        if policy.heavy:
            least = np.partition(candidates, 1, 1)
            report.near_ties += int((relative_gap(least[:, 1], least[:, 0]) <= tolerance).sum())
        survivors = before != victims[:, query - size, None]
        if (survivors.sum(1) != budget).any():
            row = np.flatnonzero(survivors.sum(1) != budget)[0]
            report.fail(f"{name(row)} pos {query}: evicts {victims[row, step]}, which is not stored")
            return
        after = before[survivors].reshape(rows, budget)
        for row in np.flatnonzero((after != oracle.pos).any(1)):
            theirs = int(np.flatnonzero(before[row] == victims[row, step])[0])
            ours = int(np.argmin(np.isin(before[row], oracle.pos[row])))
            gap = relative_gap(now[row, theirs], now[row, ours])
            what = f"{name(row)} pos {query}: evicts {before[row, theirs]} instead of {before[row, ours]}"
            if theirs >= candidates.shape[1]:
                report.fail(f"{what}, out of the recent window of {policy.recent}")
            elif before[row, theirs] < policy.sinks:
                report.fail(f"{what}, a sink")
            elif gap <= tolerance:
                report.excused += 1
            else:
                report.fail(f"{what} (scores {now[row, theirs]:.7g}, {now[row, ours]:.7g}, a gap of {gap:.2e})")
            oracle.pos[row] = after[row]
            oracle.acc[row] = now[row][survivors[row]]
    for sequence, acc in zip(sequences, oracle.acc.reshape(count, -1)):
        sequence.stored_scores += acc.sum()


def batches(sequences, most_cells=12_000_000):
    """Sequences of equal shape together, in groups whose attention fits some 100 MB a layer."""
    groups = defaultdict(list)
    for sequence in sequences:
        groups[len(sequence.prompt), len(sequence.generated)].append(sequence)
    for (size, generated), members in sorted(groups.items()):
        heads, total = members[0].kept.shape[1], size + generated - 1
        members.sort(key=lambda sequence: dataclasses.astuple(sequence.policy))
        at_once = max(1, most_cells // (heads * total * total))
        for begin in range(0, len(members), at_once):
            yield members[begin:begin + at_once]


def teacher_force(model, group, on_attention=None, logits=True):
    """One pass over sequences of equal shape, attending what each run attended; logits from the prompt's end on."""
    tokens = np.stack([sequence.tokens for sequence in group])
    last = np.stack([sequence.last_query() for sequence in group])
    rows = np.arange(tokens.shape[1])
    causal = rows[None, :] <= rows[:, None]

    def attended(layer):
        return causal & (last[:, layer, :, None, :] >= rows[:, None])

    first = 0 if group[0].logits is not None else len(group[0].prompt) - 1
    return model.forward(tokens, attended, first if logits else None, on_attention)


def check_mass(sequence, report, tolerance):
    """(g): usage's attention_mass_kept, of what the layers' scores were found to be."""
    if sequence.usage is None:
        return
    layers, heads, _ = sequence.kept.shape
    queries = len(sequence.prompt) + sequence.victims.shape[2]
    expected = sequence.stored_scores / (layers * heads * queries) if sequence.policy.scored else None
    got = sequence.usage.get("attention_mass_kept")
    if (got is None) != (expected is None) or (got is not None and abs(got - expected) > 10 * tolerance):
        report.fail(f"seq {sequence.index}: usage says attention_mass_kept {got}, it is {expected}")


def check_run(model, sequences, score_tolerance=1e-5, logit_tolerance=1e-4, logits_within=1e-3, report=None):
    """Checks a run's sequences (of read_generate or read_logits) against the reference. Returns the Report."""
    report = Report() if report is None else report
    report.sequences += len(sequences)
    sound = [sequence for sequence in sequences if check_shape(sequence, report)]
    for sequence in sound:
        sequence.stored_scores = 0
    for group in batches(sound):
        policies = defaultdict(list)
        for row, sequence in enumerate(group):
            policies[sequence.policy].append(row)

        def on_attention(layer, probabilities):
            for policy, rows in policies.items():
                part = probabilities if len(rows) == len(group) else probabilities[rows]
                follow(policy, [group[row] for row in rows], layer, part, report, score_tolerance)

        logits = teacher_force(model, group, on_attention)
        for sequence, rows in zip(group, logits):
            check_mass(sequence, report, score_tolerance)
            if sequence.logits is not None:
                worst = np.abs(rows - sequence.logits).max()
                if not worst <= logits_within:
                    report.fail(f"seq {sequence.index}: logits differ by {worst:.2e}, {logits_within} may be")
            if sequence.sampling is not None:
                report.tokens += len(rows)
                for step, (row, token) in enumerate(zip(rows, sequence.generated)):
                    drawn = sequence.sampling.draw(row, step)
                    if drawn == token:
                        continue
                    if token in sequence.sampling.draws_nearby(row, step, logit_tolerance):
                        report.token_near_ties += 1
                        report.tokens_excused += 1
                    else:
                        report.fail(f"seq {sequence.index} (prompt {len(sequence.prompt)}): token {step} is {token}, "
                                    f"its seed draws {drawn}")
            if not sequence.greedy:
                continue
            top = np.partition(rows, -2, 1)[:, -2:]
            chosen = rows[np.arange(len(rows)), sequence.generated]
            report.tokens += len(rows)
            report.token_near_ties += int((top[:, 1] - top[:, 0] <= logit_tolerance).sum())
            report.tokens_excused += int(((chosen < top[:, 1]) & (top[:, 1] - chosen <= logit_tolerance)).sum())
            for step in np.flatnonzero(top[:, 1] - chosen > logit_tolerance)[:3]:
                report.fail(f"seq {sequence.index} (prompt {len(sequence.prompt)}): token {step} is "
                            f"{sequence.generated[step]}, the greatest logit is {rows[step].argmax()}'s, by "
                            f"{top[step, 1] - chosen[step]:.2e}")
    return report


# ---- two runs -------------------------------------------------------------------------------------------------------
@dataclasses.dataclass
class Comparison(Counts):
    """Counts of compare_runs. Identical sequences agree in every token and every kept set."""
    sequences: int = 0
    identical: int = 0
    parted_at_victim: int = 0  # the first difference is a kept set, at a near tie
    parted_at_token: int = 0  # the first difference is a token, at a near tie
    decisions: int = 0  # kept sets, victims and tokens that were compared
    excused: int = 0  # of those, differing at a near tie
    failures: list = dataclasses.field(default_factory=list)

    def verdict(self):
        failures = list(self.failures)
        if self.excused * 1000 > max(self.decisions, 1000):
            failures.append(f"{self.excused} of {self.decisions} decisions excused as near ties; 1 in 1,000 may be")
        return failures

    def __str__(self):
        return (f"{self.sequences} sequences: {self.identical} identical, {self.parted_at_victim} parted at a near tie "
                f"of scores, {self.parted_at_token} of tokens; {self.decisions} decisions compared, {self.excused} "
                f"excused; {len(self.failures)} failures")


def first_difference(a, b):
    """None, or (step, layer, kind) of what differs first; step -1 is the prompt. Kinds: "kept", "victims", "tokens"."""
    differing = np.argwhere((a.kept != b.kept).any((1, 2)))
    if len(differing):
        return -1, int(differing[0, 0]), "kept"
    steps = min(a.victims.shape[2], b.victims.shape[2])
    victims = np.argwhere((a.victims[:, :, :steps] != b.victims[:, :, :steps]).any(1).T)  # sorted by (step, layer)
    count = min(len(a.generated), len(b.generated))
    tokens = np.flatnonzero(a.generated[:count] != b.generated[:count])
    # Token k is chosen after the victims of step k - 1, and fed in step k.
    if len(victims) and (not len(tokens) or victims[0, 0] < tokens[0]):
        return int(victims[0, 0]), int(victims[0, 1]), "victims"
    return (int(tokens[0]) - 1, -1, "tokens") if len(tokens) else None


def compare_runs(model, a, b, score_tolerance=1e-5, logit_tolerance=1e-4):
    """Two runs of the same prompts and policies (another tp, alone instead of in a batch): are they the same?

    The first difference of a sequence must be at a near tie; what comes after it follows from it and is not compared
    here (check_run holds each run against the reference on its own trace).
    """
    result = Comparison()
    if [sequence.index for sequence in a] != [sequence.index for sequence in b]:
        result.failures.append(f"runs of {len(a)} and {len(b)} sequences")
        return result
    for left, right in zip(a, b):
        name = f"seq {left.index} (prompt {len(left.prompt)})"
        result.sequences += 1
        if left.policy != right.policy or not np.array_equal(left.prompt, right.prompt):
            result.failures.append(f"{name}: the runs have different prompts or policies")
            continue
        difference = first_difference(left, right)
        layers, heads, _ = left.kept.shape
        steps = left.victims.shape[2] if difference is None else difference[0] + 1
        result.decisions += layers * heads * (1 + steps) + 1 + steps
        if difference is None:
            if len(left.generated) == len(right.generated):
                result.identical += 1
            else:
                result.failures.append(f"{name}: {len(left.generated)} and {len(right.generated)} tokens")
            continue
        step, at_layer, kind = difference
        probabilities = {}

        def on_attention(layer, p):
            if layer == at_layer:
                probabilities[layer] = p[0]

        logits = teacher_force(model, [left], on_attention, logits=kind == "tokens")
        if kind == "tokens":
            row = logits[0, step + 1]
            one, other = int(left.generated[step + 1]), int(right.generated[step + 1])
            gap = abs(row[one] - row[other])
            if left.sampling is not None:
                near = {one, other} <= left.sampling.draws_nearby(row, step + 1, logit_tolerance)
            else:
                near = left.greedy and gap <= logit_tolerance
            if not near:
                result.failures.append(f"{name}: token {step + 1} is {one} and {other}, logits {gap:.2e} apart")
            else:
                result.parted_at_token += 1
                result.excused += 1
            continue
        scores = probabilities[at_layer][:, :len(left.prompt) + step + 1].sum(1)  # [heads, T]
        for head in range(heads):
            if kind == "kept":
                one = np.flatnonzero(left.kept[at_layer, head] & ~right.kept[at_layer, head])
                other = np.flatnonzero(right.kept[at_layer, head] & ~left.kept[at_layer, head])
            else:
                one, other = left.victims[at_layer, head, step:step + 1], right.victims[at_layer, head, step:step + 1]
            if np.array_equal(one, other):
                continue
            where = f"{name} layer {at_layer} head {head} {'after the prompt' if step < 0 else f'step {step}'}"
            if len(one) != len(other) or -1 in one or -1 in other:
                result.failures.append(f"{where}: one run evicts {one}, the other {other}")
                continue
            both = scores[head, np.concatenate([one, other])]
            gap = relative_gap(both.max(), both.min())
            if gap <= score_tolerance:
                result.excused += 1
            else:
                result.failures.append(f"{where}: one run has {one}, the other {other}, scores {gap:.2e} apart")
        result.parted_at_victim += 1
    return result


def main():
    parser = argparse.ArgumentParser(description="Checks the trace of an h2oserve run against the H2O reference.")
    parser.add_argument("--model", required=True, help="the Hugging Face directory that the run used")
    parser.add_argument("--trace", required=True)
    parser.add_argument("--input", help="the prompts, {\"tokens\": [..]} lines, of a generate run")
    parser.add_argument("--output", help="what generate --json printed")
    parser.add_argument("--max-tokens", type=int, help="as given to generate; checks the bytes charged")
    parser.add_argument("--tokens", help="the tokens of a logits run, such as \"2 11 12\"")
    parser.add_argument("--prefill", type=int, help="as given to logits; all tokens by default")
    parser.add_argument("--logits", help="the .npy that logits wrote")
    parser.add_argument("--kv-policy", default="full", choices=["full", "h2o", "sink", "recent"])
    parser.add_argument("--kv-budget")
    parser.add_argument("--kv-heavy", type=int)
    parser.add_argument("--kv-recent", type=int)
    parser.add_argument("--kv-prefill")
    parser.add_argument("--score-tolerance", type=float, default=1e-5)
    parser.add_argument("--logit-tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    options = KvOptions(arguments.kv_policy, arguments.kv_budget, arguments.kv_heavy, arguments.kv_recent,
                        arguments.kv_prefill)
    model, report = opt_numpy.Opt.load(arguments.model, np.float64), Report()
    if arguments.input and arguments.output:
        sequences = read_generate(model, read_lines(arguments.input), arguments.output, arguments.trace, options,
                                  arguments.max_tokens, report)
    elif arguments.tokens:
        tokens = [int(word) for word in arguments.tokens.split()]
        sequences = read_logits(model, tokens, np.load(arguments.logits) if arguments.logits else None, arguments.trace,
                                arguments.prefill or len(tokens), options, report)
    else:
        parser.error("either --input and --output (a generate run) or --tokens (a logits run) is needed")
    check_run(model, sequences, arguments.score_tolerance, arguments.logit_tolerance, report=report)
    failures = report.verdict()
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    if len(failures) > 20:
        print(f"... and {len(failures) - 20} more", file=sys.stderr)
    counts = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    print(json.dumps({**counts, "failures": len(failures)}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
