"""Checkpoints whose linear layers are stored as codes, in every layout that h2oserve reads, written by numpy alone.

    plain = write(directory, config, tensors, "int4", group=64)

rounds the linear layers of layers to the nearest codes and returns all tensors as the numbers that the codes stand for.
`spoil` may change the tensors that are stored.
Words of 32 bits hold 8 codes of 4 bits, the first in the lowest; compressed-tensors stores signed codes plus 8.
"""
import json
import pathlib

import numpy as np

import opt_numpy

LAYOUTS = ("int4", "int4-symmetric", "int8", "int8-packed", "fp8", "gptq", "gptq_v2")
FORMATS = {"int8": "int-quantized", "fp8": "float-quantized"}  # of the others: pack-quantized


def bf16(array):
    return (opt_numpy.bf16_bits(array).astype(np.uint32) << 16).view(np.float32)


def packed(nibbles):
    """Words along the last axis, whose length 8 divides."""
    words = nibbles.astype(np.uint32).reshape(*nibbles.shape[:-1], -1, 8) << (4 * np.arange(8, dtype=np.uint32))
    return words.sum(-1, dtype=np.uint32)


# The numbers of e4m3 from 0 to 448, by their codes.
E4M3 = np.array([(code & 7) / 8 * 2.0**-6 if code < 8 else (1 + (code & 7) / 8) * 2.0**((code >> 3) - 7)
                 for code in range(127)], np.float32)


def e4m3(array):
    """Codes of the nearest numbers, of two the even."""
    magnitude = np.minimum(np.abs(array), 448)
    high = np.searchsorted(E4M3, magnitude).clip(1, 126)
    low = high - 1
    up, down = E4M3[high] - magnitude, magnitude - E4M3[low]
    code = np.where((up < down) | ((up == down) & (high % 2 == 0)), high, low)
    return (code | np.where(np.signbit(array), 0x80, 0)).astype(np.uint8)


def int4(name, weight, layout, group):
    outputs, inputs = weight.shape
    grouped = weight.reshape(outputs, inputs // group, group)
    if layout == "int4":
        low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
        scale = bf16((high - low) / 15)
        zero = np.rint(-low / scale).clip(0, 15)
    else:
        scale = np.abs(grouped).max(-1) / 7
        scale = bf16(scale) if layout == "int4-symmetric" else scale.astype(np.float16).astype(np.float32)
        zero = np.full(scale.shape, 8.0)
    codes = (np.rint(grouped / scale[..., None]) + zero[..., None]).clip(0, 15)
    plain = (codes - zero[..., None]).astype(np.float32) * bf16(scale)[..., None]
    codes = codes.reshape(outputs, inputs)
    layer = name.removesuffix("weight")
    if layout.startswith("gptq"):
        stored = zero - 1 if layout == "gptq" else zero
        tensors = {layer + "qweight": ("I32", packed(codes.T.reshape(inputs // 8, 8, outputs).swapaxes(1, 2))[..., 0]),
                   layer + "qzeros": ("I32", packed(stored.T)), layer + "scales": ("F16", scale.T.astype(np.float16)),
                   layer + "g_idx": ("I32", (np.arange(inputs) // group).astype(np.int32))}
    else:
        tensors = {name + "_packed": ("I32", packed(codes)), name + "_scale": ("BF16", opt_numpy.bf16_bits(scale)),
                   name + "_shape": ("I64", np.array(weight.shape, np.int64))}
        if layout == "int4":
            tensors[name + "_zero_point"] = ("I32", packed(zero.T).T)
    return tensors, plain.reshape(outputs, inputs)


def eight_bits(name, weight, layout):
    scale = (np.abs(weight).max(-1, keepdims=True) / (448 if layout == "fp8" else 127)).astype(np.float32)
    scaled = weight / scale
    if layout == "fp8":
        codes = e4m3(scaled)
        plain = np.where(codes & 0x80, -1, 1) * E4M3[codes & 0x7F] * scale
        return {name: ("F8_E4M3", codes), name + "_scale": ("F32", scale)}, plain.astype(np.float32)
    codes = np.rint(scaled).clip(-127, 127).astype(np.int8)
    tensors = {name + "_scale": ("F32", scale)}
    if layout == "int8":
        tensors[name] = ("I8", codes)
    else:
        tensors[name + "_packed"] = ("I32", (codes.view(np.uint8) ^ 0x80).view(np.uint32))
        tensors[name + "_shape"] = ("I64", np.array(weight.shape, np.int64))
    return tensors, codes * scale


def quantization_config(layout, group):
    if layout.startswith("gptq"):
        return {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": True, "desc_act": False,
                "checkpoint_format": layout}
    weights = {"num_bits": 4 if layout.startswith("int4") else 8, "type": "float" if layout == "fp8" else "int",
               "symmetric": layout != "int4", "strategy": "channel", "group_size": None, "dynamic": False}
    if layout.startswith("int4"):
        weights |= {"strategy": "group", "group_size": group}
    stored = FORMATS.get(layout, "pack-quantized")
    config = {"quant_method": "compressed-tensors", "format": stored,
              "quantization_status": "compressed", "ignore": ["lm_head", "re:.*project_(in|out)"],
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None,
                                            "output_activations": None, "format": stored}}}
    if layout == "int4":
        config["dequantize"] = True  # else compressed-tensors 0.18 to 0.20.1 have no room for packed zero points
    return config


def write(directory, config, tensors, layout, group=64, spoil=None):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    stored, plain = {}, {}
    for name, array in tensors.items():
        array = np.asarray(array, np.float32)
        if ".layers." in name and array.ndim == 2:
            codes, plain[name] = (int4(name, array, layout, group) if layout.startswith(("int4", "gptq"))
                                  else eight_bits(name, array, layout))
            stored.update(codes)
        else:
            stored[name] = ("F32", array)
            plain[name] = array
    if spoil:
        spoil(stored)
    # The widest numbers come first, so that all are aligned.
    by_width = dict(sorted(stored.items(), key=lambda item: -item[1][1].dtype.itemsize))
    opt_numpy.write_tensors(directory / "model.safetensors", by_width)
    (directory / "config.json").write_text(
        json.dumps({**config, "dtype": "float32", "quantization_config": quantization_config(layout, group)}, indent=1))
    return plain


def write_random(directory, case, layout):
    """A small random checkpoint (tests/golden/logits/cases.py); returns an opt_numpy.Opt of what is stored."""
    opt_numpy.write_random_checkpoint(directory, case.config, case.seed)
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    plain = write(directory, config, opt_numpy.random_tensors(case.config, case.seed), layout)
    return opt_numpy.Opt(config, {name.removeprefix("model."): array for name, array in plain.items()}, np.float64)
