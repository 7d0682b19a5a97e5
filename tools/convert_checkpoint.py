#!/usr/bin/env python3
"""Converts the pytorch_model*.bin files of an OPT release to safetensors.

Reads SOURCE: pytorch_model.bin, or pytorch_model.bin.index.json and the files
it names.  Writes to OUTPUT: model-00001-of-0000N.safetensors, their index, and
copies of the config and tokenizer files.  Tensors are mapped and written one at
a time, so the script needs the memory of the largest tensor, however large the
model is.  (torch before 2.1 cannot map files; it needs the memory of the largest
file.)  Pickled code is never run (weights_only).

Names lose the prefixes that training wrappers put in front (module.,
_orig_mod., ...).  What comes out is the model that config.json describes: every
tensor that it needs is there, has the right shape and holds finite numbers, and
there is no other.  A tied lm_head.weight is left out if it repeats the
embedding, and kept if it differs.  At the end every tensor is read back and
compared with its source.
"""

import argparse
import contextlib
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

EMBEDDING = "decoder.embed_tokens.weight"
HEAD = "lm_head.weight"
# What wrappers put in front of a model's names: torch.nn.DataParallel and DeepSpeed, torch.compile, FSDP, Lightning, PEFT.
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "base_model.", "model.")
# In files of fairseq, and not weights.
IGNORED = ("decoder.version",)
# Where training programs keep the weights in what they save.
STATES = ("state_dict", "model_state_dict", "model", "module")


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
    except (ValueError, RecursionError) as error:
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


# ---- What the config asks for


def tensors_of(path):
    """The shapes that the config at `path` asks for, by name without "model.", and whether it ties the head."""
    config = read_json(path)

    def number(key, default=None):
        value = config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConversionError(f'{path}: "{key}" is {value!r}; it must be a number from 1 on')
        return value

    def flag(key, default):
        value = config.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ConversionError(f'{path}: "{key}" is {value!r}; it must be true or false')
        return value

    hidden, vocabulary = number("hidden_size"), number("vocab_size")
    ffn, embed = number("ffn_dim", 3072), number("word_embed_proj_dim", hidden)
    bias, affine = flag("enable_bias", True), flag("layer_norm_elementwise_affine", True)
    shapes = {
        EMBEDDING: [vocabulary, embed],
        "decoder.embed_positions.weight": [number("max_position_embeddings", 2048) + 2, hidden],
    }
    if embed != hidden:
        shapes["decoder.project_in.weight"] = [hidden, embed]
        shapes["decoder.project_out.weight"] = [embed, hidden]

    def add(name, shape, with_bias):
        shapes[f"{name}.weight"] = shape
        if with_bias:
            shapes[f"{name}.bias"] = shape[:1]

    def add_norm(name):
        if affine:
            add(name, [hidden], True)

    if flag("do_layer_norm_before", True) and not flag("_remove_final_layer_norm", False):
        add_norm("decoder.final_layer_norm")
    for i in range(number("num_hidden_layers")):
        layer = f"decoder.layers.{i}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            add(f"{layer}.self_attn.{projection}", [hidden, hidden], bias)
        add(f"{layer}.fc1", [ffn, hidden], bias)
        add(f"{layer}.fc2", [hidden, ffn], bias)
        add_norm(f"{layer}.self_attn_layer_norm")
        add_norm(f"{layer}.final_layer_norm")
    return shapes, flag("tie_word_embeddings", True)


# ---- What the files hold


def torch_load(torch, path):
    """torch.load, mapped where torch and the file allow."""
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except TypeError as error:  # torch before 2.1
        if "mmap" not in str(error):
            raise
    except RuntimeError as error:  # a file written before torch 1.6
        if "mmap" not in str(error):
            raise
    return torch.load(path, map_location="cpu", weights_only=True)


def load(torch, path):
    """The tensors of a .bin file, by name."""
    try:
        state = torch_load(torch, path)
    except (MemoryError, TypeError, AttributeError) as error:  # no fault of the file
        raise ConversionError(
            f"torch {torch.__version__} cannot read {path}: {type(error).__name__}: {error}; try a newer one"
        ) from None
    except Exception as error:  # torch.load documents no exception type
        # torch puts advice in front of the reason.
        reason = str(error).split("WeightsUnpickler error: ")[-1].strip().splitlines()
        reason = reason[0] if reason else type(error).__name__
        if re.search("nsupported (class|global)", reason, re.IGNORECASE):
            raise ConversionError(
                f"{path} holds more than tensors ({reason}); save the model's state_dict alone"
            ) from None
        raise ConversionError(
            f"{path} cannot be read: {reason}; it must be a complete file of tensors written by torch.save"
        ) from None
    while isinstance(state, dict):
        inner = next((state[key] for key in STATES if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, dict):
        raise ConversionError(f"{path} holds a {type(state).__name__}; it must hold a dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ConversionError(f"{path}: {name!r} is a {type(tensor).__name__}; it must be a tensor")
    return state


def canonical(name):
    """`name` without what stands in front of the names of a model."""
    while not name.startswith(("decoder.", HEAD)):
        prefix = next((p for p in WRAPPERS if name.startswith(p)), None)
        if prefix is None:
            break
        name = name[len(prefix):]
    return name


def written(name):
    """The name under which a tensor is written: as Hugging Face spells it, or without "model." as the source."""
    short = canonical(name)
    return f"model.{short}" if name.endswith(f"model.{short}") and short != HEAD else short


class Plan:
    """Which tensor goes into which output file. Made before anything is written."""

    def __init__(self, torch, source, dtype, max_shard_bytes):
        self.torch = torch
        self.files = source_files(source)
        self.shards = [[]]  # lists of (file, name, dtype, dtype's name, shape, bytes, written name)
        shapes, tied = tensors_of(source / "config.json")
        found = self.find(shapes)
        self.note = self.resolve_head(found, shapes, tied)
        self.check(found, shapes, source)
        self.cut(found, dtype, max_shard_bytes)
        self.total_bytes = sum(entry[5] for shard in self.shards for entry in shard)

    def find(self, shapes):
        """(file, name there, shape, dtype) of every tensor, by canonical name."""
        found = {}
        for file, expected in self.files.items():
            state = self.state(file)
            if missing := sorted((expected or set()) - set(state)):
                raise ConversionError(f"{file} has no tensor {missing[0]!r}, which the index says it has")
            for name in sorted(state):
                short = canonical(name)
                if short in IGNORED:
                    continue
                if short not in shapes and short != HEAD:
                    raise ConversionError(f"{file}: config.json does not ask for the tensor {name!r}")
                if short in found:
                    raise ConversionError(f"{name!r} of {file} is also in {found[short][0]}, as {found[short][1]!r}")
                found[short] = (file, name, list(state[name].shape), state[name].dtype)
        if not found:
            raise ConversionError(f"{next(iter(self.files)).parent} has no tensors")
        return found

    def resolve_head(self, found, shapes, tied):
        """Decides what the head is, as the engine does; what there is to say of it."""
        if not tied:
            shapes[HEAD] = shapes[EMBEDDING]
            return ""
        if HEAD not in found:
            return ""
        if EMBEDDING not in found:
            # A tied model that was saved under the other name.
            found[EMBEDDING] = found.pop(HEAD)
            return " (the tied lm_head.weight is the embedding)"
        if self.torch.equal(self.tensor(*found[HEAD][:2]), self.tensor(*found[EMBEDDING][:2])):
            del found[HEAD]
            return " (tied lm_head.weight left out)"
        shapes[HEAD] = shapes[EMBEDDING]
        return " (lm_head.weight differs from the embedding, to which config.json ties it; both are kept and used)"

    def check(self, found, shapes, source):
        for name in shapes:
            if name not in found:
                raise ConversionError(
                    f"{source} has no tensor {name!r}, which its config.json asks for"
                    f" (it has {len(found)} of {len(shapes)})"
                )
        for name, (file, stored, shape, dtype) in found.items():
            if shape != shapes[name]:
                raise ConversionError(f"{file}: {stored!r} has the shape {shape}; config.json asks for {shapes[name]}")
            if dtype not in self.names():
                raise ConversionError(f"{file}: {stored!r} is {dtype}; only floating-point weights are known")

    def names(self):
        torch = self.torch
        return {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

    def cut(self, found, dtype, max_shard_bytes):
        prefix = "model." if any(written(name).startswith("model.") for _, name, _, _ in found.values()) else ""
        shard_bytes = 0
        for short, (file, name, shape, stored) in sorted(found.items(), key=lambda item: item[1][:2]):
            to = dtype or stored
            num_bytes = math.prod(shape) * self.torch.empty(0, dtype=to).element_size()
            if self.shards[-1] and shard_bytes + num_bytes > max_shard_bytes:
                self.shards.append([])
                shard_bytes = 0
            shard_bytes += num_bytes
            # A head that is the embedding takes its name.
            out = written(name) if short == canonical(name) else prefix + short
            self.shards[-1].append((file, name, to, self.names()[to], shape, num_bytes, out))

    _loaded = (None, None)

    def state(self, file):
        # One file is held at a time; entries come sorted by file.
        if self._loaded[0] != file:
            self._loaded = (None, None)
            self._loaded = (file, load(self.torch, file))
        return self._loaded[1]

    def tensor(self, file, name):
        return self.state(file)[name].detach()

    def bytes_of(self, entry):
        """The bytes of a tensor, in its stored dtype."""
        file, name, dtype = entry[:3]
        source = self.tensor(file, name)
        tensor = source.to(dtype).contiguous()
        if not bool(self.torch.isfinite(tensor).all()):
            if bool(self.torch.isfinite(source).all()):
                raise ConversionError(f"{file}: {name!r} holds numbers too large for {entry[3]}; use another --dtype")
            raise ConversionError(f"{file}: {name!r} holds NaN or infinity; no weight of a model that works is that")
        # As bytes, because numpy has no bfloat16. A scalar has no view.
        return memoryview(tensor.reshape(-1).view(self.torch.uint8).numpy())


def write_shard(plan, path, shard, count):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for _, _, _, dtype, shape, num_bytes, name in shard:
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
        for entry in shard:
            _, _, _, dtype, shape, num_bytes, name = entry
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

    with contextlib.closing(entries):  # the bar ends its line, also before an error
        for path, shard in zip(paths, plan.shards):
            step(plan, path, shard, count)
        next(entries, None)


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
        config["torch_dtype"] = str(dtype).split(".")[-1]
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
    weight_map = {entry[6]: name for name, shard in zip(names, plan.shards) for entry in shard}
    index = {"metadata": {"total_size": plan.total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (output / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    print(
        f"{output}: {len(weight_map)} tensors, {plan.total_bytes:,} bytes in {number} file{'s' * (number > 1)}, verified"
        + plan.note
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
