"""What the parity tests share: the program, the model, the prompts, runs that are made once, and a summary.

H2O_BIN    the folder with h2oserve (default build/release/bin)
H2O_MODEL  the model of the trace tests (default models/opt-demo)

On Debian: python3-numpy python3-pytest libopenblas0-pthread. Without the last, numpy falls back to the reference BLAS
and multiplies matrices 20 times slower.
"""
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests" / "parity"), str(REPOSITORY / "tests")]

import check_trace  # noqa: E402
import opt_numpy  # noqa: E402

MODEL = pathlib.Path(os.environ.get("H2O_MODEL") or REPOSITORY / "models" / "opt-demo").absolute()
BINARY = pathlib.Path(os.environ.get("H2O_BIN") or REPOSITORY / "build" / "release" / "bin").absolute() / "h2oserve"
LENGTHS = (1, 7, 48, 230)  # of the prompts, 16 each: one token, within a page, over one, and where 20 % is over one
MAX_TOKENS = 128

# Half of the prompts are cut from this: text has more skewed attention than random tokens, and clearer logits.
TEXT = """
A lighthouse keeper on the northern coast wrote down the weather four times a day for thirty-one years. She noted the
height of the barometer, the direction of the wind, the state of the sea and the number of ships that passed, and when
nothing happened she wrote that nothing happened. Nobody asked her to be so careful. When the station was closed, the
books were put into a cupboard of the harbour office, where a student found them half a century later and copied every
line into a table. It turned out to be the longest unbroken record of storms in that part of the world, and it is now
used to check what the computers say about winds of the past. The student later said that the most valuable entries
were the dull ones, because a record that holds only the exciting days cannot tell you how rare they were.

To install the package from source, first make sure that a recent compiler and the development files of the library are
present. Then run the configure script, which checks the system and writes a file that describes what it found. If a
library is missing, the script stops and names it. The option --prefix selects the directory below which everything is
installed; the default is /usr/local. After that, the command make builds the programs, and make check runs the tests.
A failed test does not always mean that the program is broken: read the log in the directory tests/output before you
report it. Finally, make install copies the files. You can delete the build directory afterwards, but keep the table of
installed files if you want to remove the package again. On systems with several versions of the library, set the
variable LIBRARY_PATH to the one that you want; otherwise the first version on the search path is taken.

The old recipe says: take three pounds of flour, one of butter, and as many eggs as the hens have given. It does not
say how hot the oven should be, since every oven was different, and every cook knew her own. One threw a pinch of flour
on the stones and counted until it turned brown. At ten it was right for bread, at twenty for cakes, and if it burned at
once one had to wait. Weights were no better: the pound of one town was not the pound of the next, and merchants carried
tables to convert between them. What we call a recipe today, with grams and degrees and minutes, is an invention of the
last two hundred years. It came from the same time as the railway timetable, and from the same wish that a thing should
come out alike wherever it is done and whoever does it.

In 1854 a doctor drew a map of the deaths in his part of the city. Each death was a short black bar at the door of the
house where it had happened, and the bars stood close together around one water pump. A brewery in the same street had
no deaths at all: its workers drank beer. The doctor asked for the handle of the pump to be taken off, and it was. By
then the epidemic was already fading, so it is hard to say what the handle did; but the map had done its work. It showed
that a question about the air could be answered by asking about the water, and that a table of names and dates becomes
something else when it is laid out on the ground. He himself wrote that the map was only a picture of what he had learned
by knocking on doors.
"""


def pytest_addoption(parser):
    parser.addoption("--full-matrix", action="store_true",
                     help="every policy x tp 1 to 4 x alone and in a batch, each on all 64 prompts")


@pytest.fixture(scope="session")
def full_matrix(request):
    return request.config.getoption("--full-matrix", default=False)


SUMMARY, TOTALS = [], {}


@pytest.fixture
def accept(request):
    """accept(what, counts): prints the counts of a check or comparison, here and in the session's summary, and asserts
    that nothing failed and little enough was excused. summarise=False: only the totals reach the summary."""
    def check(what, counts, summarise=True):
        print(f"{what}: {counts}")
        if summarise:
            SUMMARY.append(f"{request.node.name}: {what}: {counts}")
        kind = type(counts)
        TOTALS[kind] = TOTALS[kind].add(counts) if kind in TOTALS else kind().add(counts)
        failures = counts.verdict()
        assert not failures, f"{len(failures)} failures, of which:\n" + "\n".join(failures[:10])
    return check


def pytest_terminal_summary(terminalreporter):
    if TOTALS:
        terminalreporter.section("compared, near ties, excused")
        for line in SUMMARY:
            terminalreporter.write_line(line)
        for kind, counts in TOTALS.items():
            what = "against the reference" if issubclass(kind, check_trace.Report) else "run against run"
            terminalreporter.write_line(f"all, {what}: {counts}")


class Program:
    """h2oserve on one model, and its outputs parsed."""

    def __init__(self, binary, model_path, folder):
        self.binary, self.model_path, self.folder, self.count = binary, model_path, folder, 0

    def run(self, *words, timeout=900):
        started = time.monotonic()
        done = subprocess.run([str(self.binary), *map(str, words)], capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, (f"h2oserve {' '.join(map(str, words))}\nexit {done.returncode}\n"
                                      f"{done.stderr[-2000:]}")
        self.seconds = time.monotonic() - started
        return done.stdout

    def file(self, suffix):
        self.count += 1
        return self.folder / f"{self.count}{suffix}"

    def write_lines(self, lines):
        path = self.file(".input.jsonl")
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def json_lines(self, *words):
        return [json.loads(line) for line in self.run(*words).splitlines() if line.strip()]

    def tokenize(self, text):
        return self.json_lines("tokenize", "--model", self.model_path, "--input",
                               self.write_lines([{"prompt": text}]))[0]["tokens"]

    def generate(self, lines, *flags, tp=1):
        """What `generate --input --json` prints, one object a line."""
        return self.json_lines("generate", "--model", self.model_path, "--tp", tp, "--input", self.write_lines(lines),
                               "--json", *flags)

    def traced(self, model, lines, options, *flags, tp=1, max_tokens=MAX_TOKENS, alone=False, report=None):
        """The check_trace sequences of a generate run. alone: one sequence runs at a time."""
        trace = self.file(".trace.jsonl")
        flags = [*options.flags(), "--max-tokens", max_tokens, "--ignore-eos", "--trace", trace, *flags]
        outputs = self.generate(lines, *flags, *(["--max-sequences", 1] if alone else []), tp=tp)
        for output in outputs:
            assert output["finish_reason"] == "length", output
        failures = check_trace.Report() if report is None else report
        sequences = check_trace.read_generate(model, lines, outputs, trace, options, max_tokens, failures)
        assert report is not None or not failures.failures, failures.failures[:10]
        trace.unlink()
        return sequences

    def logits(self, tokens, *flags, tp=1, model_path=None):
        """float32 [tokens, vocabulary] of `logits --tokens`."""
        out = self.file(".npy")
        self.run("logits", "--model", model_path or self.model_path, "--tp", tp, "--tokens", " ".join(map(str, tokens)),
                 "--out", out, *flags)
        logits = np.load(out)
        assert logits.dtype == np.float32
        return logits


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    if not os.access(BINARY, os.X_OK):
        pytest.skip(f"{BINARY} is not there: build it (cmake --build --preset release) or set H2O_BIN")
    return Program(BINARY, MODEL, tmp_path_factory.mktemp("h2oserve"))


@pytest.fixture(scope="session")
def model():
    """The model in float64: what the kept sets and tokens are judged by."""
    if not MODEL.is_dir():
        pytest.skip(f"{MODEL} is not there: set H2O_MODEL to a Hugging Face directory")
    return opt_numpy.Opt.load(MODEL, np.float64)


@pytest.fixture(scope="session")
def prompts(program, model):
    """64 prompts as input lines, 16 of each length: eight of text, then eight of seeded random tokens. So every eighth prompt
    is of another kind or length."""
    text = program.tokenize(" ".join(TEXT.split()))[1:]
    draw, lines = random.Random(20230624), []
    for length in LENGTHS:
        for number in range(16):
            if number < 8 and length > 1:
                begin = (len(text) - length) * number // 7
                tokens = [2] + text[begin:begin + length - 1]
            else:
                tokens = ([2] if length > 1 else []) + [draw.randrange(4, model.config["vocab_size"])
                                                        for _ in range(length - (length > 1))]
            lines.append({"tokens": tokens})
    return lines


class Runs:
    """Runs of the 64 prompts (or every n-th of them), each made once and kept for all tests."""

    def __init__(self, program, model, prompts):
        self.program, self.model, self.prompts, self.made = program, model, prompts, {}

    def get(self, options, tp=1, alone=False, every=1):
        """Sequences, with `index` counting all 64 prompts."""
        key = options, tp, alone, every
        if key not in self.made:
            sequences = self.program.traced(self.model, self.prompts[::every], options, tp=tp, alone=alone)
            self.made[key] = [dataclasses.replace(sequence, index=sequence.index * every) for sequence in sequences]
        return self.made[key]


@pytest.fixture(scope="session")
def runs(program, model, prompts):
    return Runs(program, model, prompts)
