#!/usr/bin/env python3
"""Writes golden files of Hugging Face's tokenizer for tests/model/tokenizer_test.cc.

Needs transformers.  The files are committed, so the tests do not need it.  The
same seed and versions give the same files:

  encode.jsonl         [text, [ids]] or, for most, [text, count, hash of ids];
                       [part, times, count, hash] is `part` repeated
  decode.jsonl         [[ids], text, text without special tokens]; the last is
                       left out where it is the same
  variants.jsonl       {"files": {name: JSON value}, "cases": [[text, ids]],
                       "special": [ids]}: other ways to declare added tokens
  unicode_classes.txt  "L 41-5A": which code points are letters (L), numbers
                       (N) and spaces (S) when words are cut

The hash is FNV-1a (64 bits) of the ids as little-endian int32.
"""

import argparse
import json
import pathlib
import random
import shutil
import struct
import sys
import tempfile
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUM_STRINGS = 10_000
NUM_WITH_IDS = 1_500
NUM_DECODED = 2_000

SPACES = [" "] * 12 + list(
    "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200a"
    "\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'", "\u2019s", "''ll", "'dd"]
SPECIALS = ["</s>", "<pad>", "<unk>", "<s>", "<mask>", "</s", "<pad", "unk>", "< /s>", "<</s>>", "<|endoftext|>"]
WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they "
    "which one you were her all she there would their we him been has when who will more no if out so said what up "
    "its about into than them can only other new some could time these two may then do first any my now such like "
    "attention eviction budget Heavy-Hitter Oracle Serving TOKENS cache 2048 3.14159 1,000 50272 don't we'll"
).split()
BLOCKS = [
    (0x0, 0x7F), (0x20, 0x7E), (0x80, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x590, 0x6FF),
    (0x900, 0xDFF), (0xE00, 0xFFF), (0x10A0, 0x13FF), (0x1680, 0x18AF), (0x2000, 0x206F), (0x2070, 0x218F),
    (0x2190, 0x2BFF), (0x3000, 0x30FF), (0x3400, 0x9FFF), (0xA000, 0xA4CF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF),
    (0xF900, 0xFFFD), (0x10000, 0x107FF), (0x11000, 0x11FFF), (0x16D40, 0x16D7F), (0x1D400, 0x1D7FF),
    (0x1E000, 0x1EEFF), (0x1F000, 0x1FAFF), (0x20000, 0x323AF), (0xE0000, 0xE01EF), (0xF0000, 0x10FFFF),
]  # fmt: skip


def character(rng):
    if rng.random() < 0.1:
        low, high = 0, 0x10FFFF
    else:
        low, high = rng.choice(BLOCKS)
    while True:
        code_point = rng.randint(low, high)
        if not 0xD800 <= code_point <= 0xDFFF:
            return chr(code_point)


def emoji(rng):
    face = chr(rng.randint(0x1F300, 0x1FAFF))
    return face + rng.choice(["", "\ufe0f", "\U0001f3fd", "\u200d" + chr(rng.randint(0x1F300, 0x1F6FF))])


def piece(rng):
    kind = rng.random()
    if kind < 0.30:
        return rng.choice([" ", " ", ""]) + rng.choice(WORDS)
    if kind < 0.42:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 4)))
    if kind < 0.50:
        return rng.choice(CONTRACTIONS)
    if kind < 0.57:
        return rng.choice(SPECIALS)
    if kind < 0.63:
        return emoji(rng)
    if kind < 0.70:
        return str(rng.randint(0, 10 ** rng.randint(1, 9)))
    if kind < 0.76:
        return rng.choice("ab.!-=_ ") * rng.randint(2, 12)
    if kind < 0.88:
        return "".join(character(rng) for _ in range(rng.randint(1, 3)))
    return "".join(chr(rng.randint(0x21, 0x7E)) for _ in range(rng.randint(1, 6)))


def fnv1a(ids):
    state = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return f"{state:016x}"


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def write_encode(tokenizer, out, rng):
    with open(out / "encode.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for i in range(NUM_STRINGS):
            text = "".join(piece(rng) for _ in range(rng.randint(0, 10)))
            ids = tokenizer(text).input_ids
            file.write(dump([text, ids] if i < NUM_WITH_IDS else [text, len(ids), fnv1a(ids)]))
        for part, times in [
            ("a", 100_000), ("ab", 50_000), ("abc ", 20_000), (" ", 100_000), ("the", 30_000), ("!", 50_000),
            ("\u3000x", 20_000), ("7", 50_000), ("</s>", 5_000), ("\U0001f600", 20_000), ("<", 50_000), ("'", 50_000),
        ]:  # fmt: skip
            ids = tokenizer(part * times).input_ids
            file.write(dump([part, times, len(ids), fnv1a(ids)]))


def write_decode(tokenizer, out, rng, vocab_size):
    # Tokens that hold a byte which is not a character by itself: many of the decoded texts are then invalid UTF-8.
    tokens = tokenizer.convert_ids_to_tokens(list(range(vocab_size)))
    odd = [i for i, token in enumerate(tokens) if token and any(ord(c) > 0x7E for c in token.replace("\u0120", ""))]
    with open(out / "decode.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for _ in range(NUM_DECODED):
            share = rng.random()
            ids = []
            for _ in range(rng.randint(0, 24)):
                kind = rng.random()
                if kind < 0.06:
                    ids.append(rng.randint(0, 4))
                elif kind < 0.06 + 0.9 * share:
                    ids.append(rng.choice(odd))
                elif kind < 0.98:
                    ids.append(rng.randrange(vocab_size))
                else:  # a padding row of the embedding
                    ids.append(vocab_size + rng.randint(0, 5))
            if rng.random() < 0.3:  # a text cut anywhere
                text = "".join(emoji(rng) + character(rng) for _ in range(4))
                ids = tokenizer(text).input_ids
                ids = ids[: rng.randint(0, len(ids))] + ids[rng.randint(0, len(ids)) :]
            text = tokenizer.decode(ids)
            skipped = tokenizer.decode(ids, skip_special_tokens=True)
            file.write(dump([ids, text] if text == skipped else [ids, text, skipped]))


def token(content, **flags):
    base = {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {**base, **flags}


def byte_level(**flags):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **flags}


def template(front, back):
    """A post-processor with special tokens around a text."""
    ids = {"<s>": 0, "</s>": 2}

    def special(content):
        return [{"SpecialToken": {"id": content, "type_id": 0}}] if content else []

    single = [*special(front), {"Sequence": {"id": "A", "type_id": 0}}, *special(back)]
    tokens = {content: {"id": content, "ids": [ids[content]], "tokens": [content]} for content in (front, back) if content}
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": tokens}  # fmt: skip


def backend(**parts):
    """A tokenizer.json without the vocabulary and the merges of its model; they are those of the directory."""
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, **token(content, special=True, normalized=False)}
                         for i, content in ((1, "<pad>"), (2, "</s>"))],
        "normalizer": None, "pre_tokenizer": byte_level(), "post_processor": None, "decoder": byte_level(),
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
        **parts,
    }  # fmt: skip


def write_variants(load, out, rng):
    def typed(content, **flags):
        return {**token(content, **flags), "__type": "AddedToken"}

    opt = {
        "errors": "replace", "unk_token": typed("</s>"), "bos_token": typed("</s>"), "eos_token": typed("</s>"),
        "pad_token": typed("<pad>"), "add_prefix_space": False, "add_bos_token": True,
        "special_tokens_map_file": None, "tokenizer_class": "GPT2Tokenizer",
    }  # fmt: skip
    variants = [
        {"tokenizer_config.json": opt},  # as in OPT's releases
        {
            "tokenizer_config.json": opt,
            "special_tokens_map.json": {
                "bos_token": token("</s>"), "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
            },
        },  # fmt: skip
        {"tokenizer_config.json": {**opt, "eos_token": typed("</s>", lstrip=True, rstrip=True)}},
        {"tokenizer_config.json": {**opt, "bos_token": typed("</s>", lstrip=True)}},
        {"tokenizer_config.json": {**opt, "unk_token": typed("</s>", rstrip=True)}},
        {
            "tokenizer_config.json": {
                **opt, "eos_token": typed("</s>", rstrip=True), "mask_token": typed("<mask>", lstrip=True),
                "additional_special_tokens": ["<s>", "<s>>"],
            },
        },  # fmt: skip
        {
            "tokenizer_config.json": {
                "tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>",
                "pad_token": "<pad>", "add_bos_token": True,
                "added_tokens_decoder": {
                    "1": token("<pad>", special=True), "2": token("</s>", special=True, rstrip=True),
                    "8193": token("zz"), "8194": token("\u00e9t\u00e9\u3042", normalized=False, special=False),
                },
            },
        },  # fmt: skip
    ]
    short = {
        "tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>",
        "pad_token": "<pad>",
    }  # fmt: skip
    variants += [
        {"tokenizer_config.json": {**short, **config}}
        for config in (
            {},
            {"add_bos_token": False},
            {"add_bos_token": True, "bos_token": "<s>"},
            {"add_bos_token": True, "bos_token": None},
            {"add_bos_token": True, "bos_token": "<new>"},
            {"add_bos_token": True, "add_eos_token": True, "eos_token": "<unk>"},
            {"add_bos_token": True, "add_prefix_space": True},
            {"add_prefix_space": True, "mask_token": typed("<mask>", lstrip=True)},
            {"extra_special_tokens": {"image_token": "<mask>", "other_token": typed("zz", lstrip=True)}},
            {"extra_special_tokens": ["<mask>", typed("zz", rstrip=True)]},
            {"add_bos_token": True, "split_special_tokens": True, "mask_token": "<mask>"},
            {"image_token": "<mask>", "other_token": typed("zz", rstrip=True), "x_token_y": "x"},
            {"additional_special_tokens": ["<mask>"], "extra_special_tokens": ["zz"]},
            {"additional_special_tokens": ["<mask>"], "extra_special_tokens": {"b_token": "zz", "a_token": "<s>>"}},
        )
    ]
    variants += [
        {"tokenizer_config.json": {**short, "mask_token": "<mask>"}, "added_tokens.json": {"zz": 8193, "<mask>": 8192}},
        {"tokenizer_config.json": short, "added_tokens.json": {"zz": 8192, "</s>": 2, "<s>": 0}},
        {
            "tokenizer_config.json": {**short, "add_bos_token": True},
            "special_tokens_map.json": {"bos_token": "<s>", "pad_token": None, "extra_special_tokens": ["zz"]},
        },
    ]
    variants += [
        {"tokenizer_config.json": {**short, **config}, "special_tokens_map.json": tokens}
        for config, tokens in (
            ({}, {"additional_special_tokens": ["zz"], "extra_special_tokens": {"b_token": "<mask>", "a_token": "<s>>"}}),
            ({"additional_special_tokens": ["<mask>"]}, {"extra_special_tokens": ["zz"]}),
            ({"additional_special_tokens": ["<mask>"]}, {"additional_special_tokens": ["zz"]}),
            ({"b_token": "<mask>"}, {"a_token": "zz"}),
        )
    ]
    variants += [{"tokenizer.json": backend(**parts), "tokenizer_config.json": {**short, **config}} for parts, config in (
        ({}, {}),
        ({}, {"add_bos_token": True}),
        ({"post_processor": template("</s>", None)}, {}),
        ({"post_processor": template("</s>", None)}, {"add_bos_token": False, "bos_token": "<s>"}),
        ({"post_processor": template("<s>", "</s>")}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}}, {}),
        ({"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True,
                             "add_prefix_space": False}}, {"tokenizer_class": "TokenizersBackend"}),
        ({"post_processor": {"type": "Sequence", "processors": [byte_level(), template("</s>", None)]}},
         {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"pre_tokenizer": byte_level(add_prefix_space=True)}, {}),
        ({"pre_tokenizer": byte_level(add_prefix_space=True)}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"pre_tokenizer": byte_level(add_prefix_space=False)}, {"add_prefix_space": True}),
        ({"added_tokens": [{"id": 0, **token("<s>", special=True, normalized=False)},
                           {"id": 8192, **token("<mask>", special=False, lstrip=True)}]}, {}),
        ({"added_tokens": [{"id": 8192, **token("<mask>", special=True)}]},
         {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": ["zz"]}),
    )]  # fmt: skip
    parts = SPECIALS + ["a", " b", " ", "\n", "\u3000", "\x85", "zz", "\u00e9t\u00e9\u3042", "x", "<s>>"]
    with open(out / "variants.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for number, files in enumerate(variants):
            tokenizer = load(files)
            texts = ["", " \u3000</s>\n\t x</s>y <mask> z</s>"]
            texts += ["".join(rng.choice(parts) for _ in range(rng.randint(1, 9))) for _ in range(150 if number < 7 else 40)]
            special = sorted(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)
            cases = [[text, tokenizer(text).input_ids] for text in texts]
            file.write(dump({"files": files, "cases": cases, "special": special}))


def write_classes(tokenizer, out):
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    ranges = []
    for code_point in range(0x110000):
        if 0xD800 <= code_point <= 0xDFFF:
            continue
        c = chr(code_point)
        # The code point continues a word of its own class and begins a new word after any other class.
        kind = next((k for k, word in (("L", "a"), ("N", "1"), ("", "!")) if len(cut(word + c)) == 1), "S")
        if not kind:
            continue
        if ranges and ranges[-1][0] == kind and ranges[-1][2] == code_point - 1:
            ranges[-1][2] = code_point
        else:
            ranges.append([kind, code_point, code_point])
    with open(out / "unicode_classes.txt", "w", encoding="utf-8", newline="\n") as file:
        for kind, begin, last in ranges:
            file.write(f"{kind} {begin:X}-{last:X}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/opt-demo")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/golden/tokenizer")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        sys.exit("make_tokenizer_goldens.py: needs transformers (pip install transformers)")

    def load(files):
        with tempfile.TemporaryDirectory() as directory:
            whole = "tokenizer.json" in files
            for name in ("config.json",) if whole else ("config.json", "vocab.json", "merges.txt"):
                shutil.copy(args.model / name, directory)
            for name, value in files.items():
                if name == "tokenizer.json":
                    vocab = json.loads((args.model / "vocab.json").read_text(encoding="utf-8"))
                    lines = (args.model / "merges.txt").read_text(encoding="utf-8").splitlines()
                    merges = [line.split(" ") for line in lines if not line.startswith("#version")]
                    value = {**value, "model": {**value["model"], "vocab": vocab, "merges": merges}}
                (pathlib.Path(directory) / name).write_text(json.dumps(value), encoding="utf-8")
            return AutoTokenizer.from_pretrained(directory)

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    vocab_size = json.loads((args.model / "config.json").read_text())["vocab_size"]
    write_encode(tokenizer, args.out, random.Random(args.seed))
    write_decode(tokenizer, args.out, random.Random(args.seed + 1), vocab_size)
    write_variants(load, args.out, random.Random(args.seed + 2))
    write_classes(tokenizer, args.out)
    for path in sorted(args.out.iterdir()):
        print(f"{path.stat().st_size:9,} {path}")


if __name__ == "__main__":
    main()
