#!/usr/bin/env python3
"""Makes tests/golden/kv_codes/*.safetensors with tests/kv_codes_numpy.py: codes, pages, products and scores.

    tools/make_kv_code_goldens.py            # writes the files
    tools/make_kv_code_goldens.py --check    # compares with the files instead, byte for byte
"""
import argparse
import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import kv_codes_numpy as kv  # noqa: E402
import opt_numpy  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "kv_codes"
TYPES = {"uint8": "U8", "int8": "I8", "uint16": "U16", "int32": "I32", "uint32": "U32", "uint64": "U64",
         "float32": "F32", "float64": "F64"}


def falling_bits(random, d, words):
    """Bits that fall from channel to channel, as calibration gives them, and fill all or nearly all words."""
    bits = np.zeros(d, np.uint8)
    importance = np.exp(-np.arange(d) / d * random.uniform(2, 6))
    while bits.sum() < 32 * words and (bits < 8).any():
        bits[np.argmax(np.where(bits < 8, importance / (1 << 2 * bits.astype(int)), -1))] += 1
    return bits


def random_code(random, bits, words):
    d = len(bits)
    gain = (1 + 0.3 * random.random_sample(d)).astype(np.float32)
    weight = random.random_sample(d)
    return kv.Code(bits, gain, (weight / weight.max()).astype(np.float32), words)


def squared(x, times):
    """Squared so many times: products have the same bits everywhere."""
    for _ in range(times):
        x = x * x
    return x


def vectors(random, code, slots, spread=1.0):
    """Of about the range of the codes, with an outlier now and then."""
    x = random.standard_normal((slots, len(code.bits))) * np.maximum(code.zero, 0.5) * 0.6 * spread
    x[::7] *= 3
    return x.astype(np.float32)


def cases():
    """name -> (key's Code, value's Code, keys, values)"""
    random = np.random.RandomState(11)  # its stream is frozen: the same numbers in every numpy

    def drawn(d, key_words, value_words, slots=29):
        codes = [random_code(random, falling_bits(random, d, words), words) for words in (key_words, value_words)]
        return (*codes, *(vectors(random, code, slots) for code in codes))

    yield "d64", drawn(64, 6, 3)
    yield "d80", drawn(80, 8, 5)
    yield "d128", drawn(128, 9, 4, slots=32)
    yield "d256", drawn(256, 11, 2, slots=5)
    yield "all_bits", drawn(16, 4, 4)
    yield "one_word", drawn(64, 1, 1)
    # Six codes of five bits in four bytes: two of them are cut.
    cut = random_code(random, np.array([5] * 6 + [2] + [0] * 9, np.uint8), 1)
    yield "cut_codes", (cut, cut, vectors(random, cut, 17), vectors(random, cut, 17))
    key, value, x, y = drawn(16, 1, 2, slots=8)
    none = kv.Code(np.zeros(16, np.uint8), key.gain, key.weight, 1)
    yield "no_bits", (none, value, x, y)
    yield "zero_and_constant", (key, value, np.zeros_like(x), np.ones_like(y))
    yield "rank_one", (key, value, *(np.outer(random.standard_normal(8), np.ones(16)).astype(np.float32) for _ in "kv"))
    huge = x.copy()
    huge[0], huge[1], huge[2, ::2] = 1e30, -1e30, 3e38
    yield "outside_of_the_range", (key, value, huge, (1e-30 * y).astype(np.float32))
    unweighted = kv.Code(key.bits, key.gain, np.zeros_like(key.weight), key.words)
    yield "no_weight", (unweighted, value, x, y)


def case_tensors(key, value, keys, values, seed):
    random = np.random.RandomState(seed)
    slots, d = keys.shape
    positions = random.randint(0, 65536, slots)
    page = kv.poison(key.words, value.words)
    kv.write_page(page, key, value, keys, values, positions)
    query = (random.standard_normal(d) / np.sqrt(d)).astype(np.float32)
    weights = squared(random.random_sample(slots), 3).astype(np.float32)
    fields = [kv.place_fields(code.bits, code.words) for code in (key, value)]
    tensors = {"query": query, "weights": weights, "positions": positions.astype(np.uint16), "page": page,
               "logits": kv.logits(page, key, query, slots), "output": kv.output(page, key.words, value, weights)}
    digits, unit = kv.query_digits(fields[0], query)
    tensors |= {"query_digits": digits.astype(np.int8), "query_unit": np.array([unit]),
                "key_sums": kv.key_sums(page, fields[0], digits, slots).T.astype(np.int32)}
    digits, unit, _ = kv.weight_digits(page, key.words, weights)
    tensors |= {"weight_digits": digits.astype(np.uint8), "weight_unit": np.array([unit]),
                "value_sums": kv.value_sums(page, key.words, fields[1], digits).astype(np.int32)}
    for name, code, x, placed in (("key", key, keys, fields[0]), ("value", value, values, fields[1])):
        codes, e = kv.encode(code, x)
        tensors |= {f"{name}.bits": code.bits, f"{name}.gain": code.gain, f"{name}.weight": code.weight,
                    f"{name}.words": np.array([code.words], np.uint8), f"{name}.x": x, f"{name}.codes": codes,
                    f"{name}.scales": e.astype(np.uint8),
                    f"{name}.decoded": kv.decode(code, codes, e).astype(np.float32),
                    f"{name}.fields": np.array(placed, np.uint8).reshape(-1, 5)}
    return tensors


def score_tensors():
    """Scores with what was added to them, by whom, and what they became."""
    random = np.random.RandomState(12)
    n = 400
    who = np.stack([random.randint(0, 2**31, n), random.randint(0, 96, n), random.randint(0, 96, n),
                    random.randint(0, 2048, n), random.randint(0, 2048, n)], 1).astype(np.uint64)
    who[:, 0] *= np.uint64(4_000_000_007)  # sequences have 64 bits
    before = random.randint(0, 256, n).astype(np.uint8)
    before[:3] = 0, 254, 255
    added = squared(random.random_sample(n), 3).astype(np.float32)
    added[:6] = 0, 500, 1, 0, 1e-7, 0.5
    randoms = [kv.score_random(*map(int, row)) for row in who]
    after = [kv.round_score(kv.score_value(int(score)) + p, r) for score, p, r in zip(before, added, randoms)]
    return {"who": who, "random": np.array(randoms, np.uint32), "added": added,
            "values": np.array([kv.score_value(score) for score in range(256)], np.float32),
            "before": before, "after": np.array(after, np.uint8)}


def write(directory):
    files = {name: case_tensors(*case, seed) for seed, (name, case) in enumerate(cases())}
    files["scores"] = score_tensors()
    for name, tensors in files.items():
        by_width = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # so that all are aligned
        opt_numpy.write_tensors(directory / f"{name}.safetensors",
                                {key: (TYPES[array.dtype.name], array) for key, array in by_width})
    return [f"{name}.safetensors" for name in files]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    if not parser.parse_args().check:
        GOLDEN.mkdir(exist_ok=True)
        write(GOLDEN)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        made = pathlib.Path(directory)
        wrong = [name for name in write(made) if (made / name).read_bytes() != (GOLDEN / name).read_bytes()]
    print("differ: " + ", ".join(wrong) if wrong else "the same")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
