"""What test_coded_logits.py lets transformers and compressed-tensors do, in a Python of their own.

    with_transformers.py quantize MODEL OUT int4|int4-symmetric|int8|fp8    rounds a model to codes and stores it
    with_transformers.py logits MODEL TOKENS.json OUT.npy                   float32, for rows of tokens
"""
import json
import sys

import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus,
                                             apply_quantization_config)
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import OPTForCausalLM

ARGUMENTS = {"int4": {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 64},
             "int4-symmetric": {"num_bits": 4, "strategy": "group", "group_size": 128},
             "int8": {"num_bits": 8, "strategy": "channel"},
             "fp8": {"num_bits": 8, "type": "float", "strategy": "channel"}}


def load(directory):
    return OPTForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def round_to_codes(module):
    """Scales that cover the weights; those of int4 are exact in bf16, as h2oserve keeps them."""
    arguments = module.quantization_scheme.weights
    weight = module.weight.data
    grouped = arguments.strategy == "group"
    groups = weight.reshape(weight.shape[0], -1, arguments.group_size if grouped else weight.shape[1])
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
    module.weight_scale.data = scale.to(torch.bfloat16).float() if grouped else scale
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
    module.quantization_status = QuantizationStatus.FROZEN


def quantize(directory, out, kind):
    model = load(directory)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**ARGUMENTS[kind]))
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"]))
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            round_to_codes(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    if kind == "int4":  # compressed-tensors 0.18 to 0.20.1 cannot read what they write unless it is made numbers at once
        with open(f"{out}/config.json") as file:
            config = json.load(file)
        config["quantization_config"]["dequantize"] = True
        with open(f"{out}/config.json", "w") as file:
            json.dump(config, file, indent=1)


def logits(directory, tokens, out):
    with open(tokens) as file, torch.inference_mode():
        np.save(out, load(directory)(input_ids=torch.tensor(json.load(file))).logits.numpy())


if __name__ == "__main__":
    torch.set_num_threads(2)
    {"quantize": quantize, "logits": logits}[sys.argv[1]](*sys.argv[2:])
