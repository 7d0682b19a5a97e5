#!/usr/bin/env python3
"""Converts the pytorch_model*.bin files of an OPT release to safetensors.

Reads SOURCE: pytorch_model.bin, or pytorch_model.bin.index.json and the files
it names.  Writes to OUTPUT: model-00001-of-0000N.safetensors, their index, and
copies of the config and tokenizer files.  Tensors are mapped and written one at
a time, so the script needs the memory of the largest tensor, however large the
model is.  Pickled code is never run (weights_only).

A tied lm_head.weight is left out, because it repeats the embedding.  At the end
every tensor is read back and compared with its source.
"""

import argparse
import json
import math
import os
import pathlib
import re
import shutil
import struct
import sys

INDEX = "model.safetensors.index.json"
COPIED = (
    "config.json generation_config.json tokenizer_config.json special_tokens_map.json added_tokens.json "
    "tokenizer.json vocab.json merges.txt LICENSE LICENSE.md README.md"
).split()


class ConversionError(Exception):
    """What is wrong with the input, and what would be right."""


def import_torch():
    try:
        import torch
    except ImportError:
        raise ConversionError("needs torch (pip install torch); it reads the .bin files") from None
    return torch


def progress(items, what, total_bytes, size_of):
    """Yields `items` under a progress bar in bytes; without a bar if tqdm is missing."""
    try:
        from tqdm import tqdm
    except ImportError:
        print(f"{what} ...", file=sys.stderr)
        yield from items
        return
    with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True) as bar:
        for item in items:
            yield item
            bar.update(size_of(item))


def read_json(path):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConversionError(f"{path} must hold a JSON object")
    return value


def source_files(source):
    """The .bin files of a checkpoint, and what its index says is in each (or None)."""
    single = source / "pytorch_model.bin"
    index = source / "pytorch_model.bin.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConversionError(f'{index}: "weight_map" must be an object of tensor names and files')
        files = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or pathlib.PurePath(file).name != file:
                raise ConversionError(f"{index}: {name!r} is said to be in {file!r}, not a file beside the index")
            files.setdefault(file, set()).add(name)
        for file in files:
            if not (source / file).is_file():
                raise ConversionError(f"no file {source / file}, which {index.name} names; download it again")
        return {source / file: names for file, names in sorted(files.items())}
    if single.is_file():
        return {single: None}
    if (source / "model.safetensors").is_file() or (source / INDEX).is_file():
        raise ConversionError(f"{source} is in safetensors already; nothing is to be converted")
    raise ConversionError(f"no pytorch_model.bin and no {index.name} in {source}")


def load(torch, path):
    """The tensors of a .bin file, memory-mapped if its format allows."""
    try:
        try:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            # Files written before torch 1.6 cannot be mapped.
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no exception type
        reason = str(error).strip().splitlines()
        raise ConversionError(
            f"{path} cannot be read: {reason[0] if reason else type(error).__name__}; "
            "it must be a complete file of tensors written by torch.save"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise ConversionError(f"{path} holds a {type(state).__name__}; it must hold a dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ConversionError(f"{path}: {name!r} is a {type(tensor).__name__}; it must be a tensor")
    return state


def canonical(name):
    return name.removeprefix("model.")


class Plan:
    """Which tensor goes into which output file. Made before anything is written."""

    def __init__(self, torch, source, dtype, max_shard_bytes):
        self.torch = torch
        names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        self.files = source_files(source)
        self.shards = [[]]  # lists of (file, name, dtype, dtype's name, shape, bytes)
        tied = read_json(source / "config.json").get("tie_word_embeddings", True)
        seen, embedding, head = {}, None, None
        shard_bytes = 0
        for file, expected in self.files.items():
            state = load(torch, file)
            if missing := sorted((expected or set()) - set(state)):
                raise ConversionError(f"{file} has no tensor {missing[0]!r}, which the index says it has")
            for name in sorted(state):
                tensor = state[name]
                if re.fullmatch(r"(model\.)?decoder\.version", name):
                    continue  # a counter of fairseq, not a weight
                if tensor.dtype not in names:
                    raise ConversionError(f"{file}: {name!r} is {tensor.dtype}; only floating-point weights are known")
                if canonical(name) in seen:
                    raise ConversionError(f"{name!r} of {file} is also in {seen[canonical(name)]}")
                seen[canonical(name)] = file
                if canonical(name) == "decoder.embed_tokens.weight":
                    embedding = (file, name)
                if name == "lm_head.weight" and tied:
                    head = (file, name)
                    continue
                to = dtype or tensor.dtype
                num_bytes = tensor.numel() * to.itemsize
                if self.shards[-1] and shard_bytes + num_bytes > max_shard_bytes:
                    self.shards.append([])
                    shard_bytes = 0
                shard_bytes += num_bytes
                self.shards[-1].append((file, name, to, names[to], list(tensor.shape), num_bytes))
        if not self.shards[0]:
            raise ConversionError(f"{source} has no tensors")
        self.total_bytes = sum(entry[5] for shard in self.shards for entry in shard)
        if head and not embedding:
            raise ConversionError(
                "lm_head.weight is there without an embedding, which is decoder.embed_tokens.weight in OPT"
            )
        if head and not torch.equal(self.tensor(*head), self.tensor(*embedding)):
            raise ConversionError(
                "lm_head.weight differs from the embedding although config.json ties them; "
                'set "tie_word_embeddings" to false there to keep it'
            )
        self.dropped_head = head is not None

    _loaded = (None, None)

    def tensor(self, file, name):
        # One file is mapped at a time; entries come sorted by file.
        if self._loaded[0] != file:
            self._loaded = (file, load(self.torch, file))
        return self._loaded[1][name]

    def bytes_of(self, entry):
        """The bytes of a tensor, in its stored dtype."""
        file, name, dtype = entry[:3]
        tensor = self.tensor(file, name).to(dtype).contiguous()
        # As bytes, because numpy has no bfloat16. A scalar has no view.
        return memoryview(tensor.reshape(-1).view(self.torch.uint8).numpy())


def write_shard(plan, path, shard, count):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for _, name, _, dtype, shape, num_bytes in shard:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + num_bytes]}
        offset += num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in shard:
            file.write(plan.bytes_of(entry))
            count(entry)


def verify(plan, path, shard, count):
    """Reads a written file back, independently of how it was written."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = 8 + length
        end = data
        for entry in shard:
            _, name, _, dtype, shape, num_bytes = entry
            stored = header.get(name)
            if not stored or stored["dtype"] != dtype or stored["shape"] != shape:
                raise ConversionError(f"{path}: {name!r} was not written as it should be")
            begin, end = stored["data_offsets"]
            file.seek(data + begin)
            if end - begin != num_bytes or file.read(num_bytes) != plan.bytes_of(entry):
                raise ConversionError(f"{path}: {name!r} differs from its source; is the disk full or faulty?")
            count(entry)
        if path.stat().st_size != data + sum(entry[5] for entry in shard):
            raise ConversionError(f"{path} has not the size it should have")


def each_shard(plan, paths, what, step):
    """Runs step(plan, path, shard, count) for all shards under one progress bar."""
    entries = progress((e for shard in plan.shards for e in shard), what, plan.total_bytes, lambda e: e[5])

    def count(_):
        next(entries, None)

    for path, shard in zip(paths, plan.shards):
        step(plan, path, shard, count)
    next(entries, None)  # closes the bar


def parse_size(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text, re.IGNORECASE)
    size = float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " ") if match else 0
    if size < 1 or not math.isfinite(size):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; it must be like 500MB or 5GB")
    return int(size)


def convert(source, output, dtype_name, max_shard_bytes):
    if not source.is_dir():
        raise ConversionError(f"no directory {source}")
    if not (source / "config.json").is_file():
        raise ConversionError(f"no config.json in {source}; it must be a Hugging Face model directory")
    model_type = read_json(source / "config.json").get("model_type")
    if model_type != "opt":
        raise ConversionError(f'{source / "config.json"}: "model_type" is {model_type!r}; it must be "opt"')
    if output.exists() and (output.samefile(source) or not output.is_dir()):
        raise ConversionError(f"{output} must be a directory other than the source")
    if output.exists() and any(output.glob("*.safetensors*")):
        raise ConversionError(f"{output} has safetensors files already; remove them or name another directory")
    torch = import_torch()
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, None: None}[dtype_name]
    plan = Plan(torch, source, dtype, max_shard_bytes)

    output.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(output).free
    if free_bytes < plan.total_bytes:
        raise ConversionError(f"{output} has {free_bytes:,} bytes free; {plan.total_bytes:,} are needed")
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)
    if dtype_name:
        # The config and the files must agree.
        config = read_json(output / "config.json")
        config.pop("dtype", None)
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
        (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    number = len(plan.shards)
    names = [f"model-{i + 1:05}-of-{number:05}.safetensors" for i in range(number)]
    # Files keep another name until all are verified, so that an interrupted run
    # does not leave a checkpoint that looks complete.
    partial = [output / (name + ".partial") for name in names]
    try:
        each_shard(plan, partial, "writing", write_shard)
        each_shard(plan, partial, "verifying", verify)
    except BaseException:
        for path in partial:
            path.unlink(missing_ok=True)
        raise
    for path, name in zip(partial, names):
        os.replace(path, output / name)
    weight_map = {entry[1]: name for name, shard in zip(names, plan.shards) for entry in shard}
    index = {"metadata": {"total_size": plan.total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (output / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    print(
        f"{output}: {len(weight_map)} tensors, {plan.total_bytes:,} bytes in {number} file{'s' * (number > 1)}, verified"
        + (" (tied lm_head.weight left out)" if plan.dropped_head else "")
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, help="directory with config.json and pytorch_model*.bin")
    parser.add_argument("output", type=pathlib.Path, help="directory to write, made if it is not there")
    parser.add_argument(
        "--dtype", choices=["float32", "bf16", "fp16"], help="store in this format (default: as in the source)"
    )
    parser.add_argument(
        "--max-shard-size", type=parse_size, default=parse_size("5GB"), metavar="SIZE",
        help="begin another file beyond this size, e.g. 500MB (default: 5GB)",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    try:
        convert(args.source, args.output, args.dtype, args.max_shard_size)
    except ConversionError as error:
        sys.exit(f"convert_checkpoint.py: {error}")
    except OSError as error:
        sys.exit(f"convert_checkpoint.py: {error}")


if __name__ == "__main__":
    main()
