"""OPT in numpy, straight from safetensors: the independent second opinion of the parity tests.

    model = Opt.load("models/opt-demo", dtype=np.float64)
    logits = model.forward(tokens)                      # tokens [batch, length], plain causal attention

`forward` is one teacher-forced pass over whole sequences. With `attended` it restricts every layer's attention to the
given sets, so the logits and attention probabilities of a run that evicted tokens step by step come out of a single
vectorised pass, without a cache.

Covers every variant of OPT: post-LayerNorm (350m), project_in/project_out, no biases, untied head, relu or gelu,
LayerNorms without parameters, `_remove_final_layer_norm`; F32, F16 and BF16 weights, one file or shards.
`write_random_checkpoint` makes small checkpoints of any such variant from a seed.
"""
import json
import math
import os

import numpy as np

# ---- safetensors: 8 bytes of header length, a JSON header, the data -------------------------------------------------
STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def read_safetensors(path):
    """Every tensor of one file, BF16 widened to float32: {name: array}."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = data[begin:end].view(STORED[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array
    return tensors


def bf16_bits(array):
    """Rounded to nearest even."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors, dtype):
    """Writes {name: float32 array} as `dtype` ("F32", "F16" or "BF16", rounded to nearest even)."""
    store = bf16_bits if dtype == "BF16" else lambda array: np.asarray(array, np.float32).astype(STORED[dtype])
    write_tensors(path, {name: (dtype, store(array)) for name, array in tensors.items()})


def write_tensors(path, tensors):
    """Writes {name: (dtype as safetensors spells it, array as it is stored)}, one behind the other."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (dtype, array) in tensors.items():
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blobs)


def read_checkpoint(directory):
    """All tensors of a Hugging Face directory, under their names without a leading "model."."""
    index = os.path.join(directory, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index) as file:
            files = sorted(set(json.load(file)["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    tensors = {}
    for name in files:
        tensors.update(read_safetensors(os.path.join(directory, name)))
    return {name[len("model."):] if name.startswith("model.") else name: array for name, array in tensors.items()}


# ---- the model ------------------------------------------------------------------------------------------------------
DEFAULTS = {"activation_function": "relu", "do_layer_norm_before": True, "enable_bias": True,
            "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False, "tie_word_embeddings": True}


def softmax_in_place(x):
    x -= x.max(-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(-1, keepdims=True)
    return x


erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0, out=x),
               "gelu": lambda x: (0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(x.dtype)}


class Opt:
    """One OPT model, read only. Weights are held as [in, out], in the dtype that everything is computed in."""

    def __init__(self, config, tensors, dtype=np.float32):
        config = {**DEFAULTS, **config}
        self.config, self.dtype = config, np.dtype(dtype)
        self.hidden, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.layers, self.head_dim = config["num_hidden_layers"], self.hidden // self.heads
        self.pre_norm = config["do_layer_norm_before"]
        self.activation = ACTIVATIONS[config["activation_function"]]

        def get(name):
            return np.array(tensors[name], self.dtype) if name in tensors else None

        def matrix(name):
            weight = get(name + ".weight")
            return None if weight is None else (np.ascontiguousarray(weight.T), get(name + ".bias"))

        def norm(name):
            return get(name + ".weight"), get(name + ".bias")

        self.embed_tokens = get("decoder.embed_tokens.weight")
        self.embed_positions = get("decoder.embed_positions.weight")[2:]  # OPT's positions start at row 2
        self.project_in, self.project_out = matrix("decoder.project_in"), matrix("decoder.project_out")
        head = self.embed_tokens if config["tie_word_embeddings"] else get("lm_head.weight")
        self.head = np.ascontiguousarray(head.T)
        self.final_norm = (norm("decoder.final_layer_norm")
                           if self.pre_norm and not config["_remove_final_layer_norm"] else None)
        self.blocks = []
        for layer in range(self.layers):
            prefix = f"decoder.layers.{layer}."
            self.blocks.append({
                "attention_norm": norm(prefix + "self_attn_layer_norm"), "mlp_norm": norm(prefix + "final_layer_norm"),
                "q": matrix(prefix + "self_attn.q_proj"), "k": matrix(prefix + "self_attn.k_proj"),
                "v": matrix(prefix + "self_attn.v_proj"), "out": matrix(prefix + "self_attn.out_proj"),
                "fc1": matrix(prefix + "fc1"), "fc2": matrix(prefix + "fc2")})

    @classmethod
    def load(cls, directory, dtype=np.float32):
        with open(os.path.join(directory, "config.json")) as file:
            return cls(json.load(file), read_checkpoint(directory), dtype)

    def norm(self, parameters, x):
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x * x).mean(-1, keepdims=True) + self.dtype.type(1e-5))
        weight, bias = parameters
        if weight is not None:
            x *= weight
        if bias is not None:
            x += bias
        return x

    @staticmethod
    def linear(parameters, x):
        weight, bias = parameters
        y = x @ weight
        if bias is not None:
            y += bias
        return y

    def embed(self, tokens, positions):
        x = self.embed_tokens[tokens]
        if self.project_in is not None:
            x = self.linear(self.project_in, x)
        return x + self.embed_positions[positions]

    def block(self, layer, x, attention):
        """One decoder layer on x [..., hidden]; `attention(q, k, v)`, on [..., hidden] each, mixes the tokens."""
        block = self.blocks[layer]
        y = self.norm(block["attention_norm"], x) if self.pre_norm else x
        q = self.linear(block["q"], y) * self.dtype.type(self.head_dim ** -0.5)
        x = x + self.linear(block["out"], attention(q, self.linear(block["k"], y), self.linear(block["v"], y)))
        if not self.pre_norm:
            x = self.norm(block["attention_norm"], x)
        y = self.norm(block["mlp_norm"], x) if self.pre_norm else x
        x = x + self.linear(block["fc2"], self.activation(self.linear(block["fc1"], y)))
        return x if self.pre_norm else self.norm(block["mlp_norm"], x)

    def logits(self, x):
        if self.final_norm is not None:
            x = self.norm(self.final_norm, x)
        if self.project_out is not None:
            x = self.linear(self.project_out, x)
        return x @ self.head

    def forward(self, tokens, attended=None, logits_from=0, on_attention=None):
        """Logits [batch, length - logits_from, vocabulary] of tokens [batch, length].

        attended(layer): bool, broadcastable to [batch, heads, length, length]; row t says which positions the token at
        t attends in that layer, itself included. None: plain causal attention.
        on_attention(layer, probabilities): sees every layer's [batch, heads, length, length], zero where not attended.
        logits_from: rows before it get no logits. None: no logits at all.
        """
        tokens = np.asarray(tokens)
        batch, length = tokens.shape
        causal = np.tri(length, dtype=bool)
        x = self.embed(tokens, np.arange(length))

        def split(y):
            return y.reshape(batch, length, self.heads, self.head_dim).transpose(0, 2, 1, 3)

        for layer in range(self.layers):
            def attention(q, k, v):
                scores = split(q) @ split(k).transpose(0, 1, 3, 2)
                mask = causal if attended is None else attended(layer)
                np.copyto(scores, -np.inf, where=~mask)
                p = softmax_in_place(scores)
                if on_attention is not None:
                    on_attention(layer, p)
                return (p @ split(v)).transpose(0, 2, 1, 3).reshape(batch, length, self.hidden)
            x = self.block(layer, x, attention)
        return None if logits_from is None else self.logits(x[:, logits_from:])


# ---- small random checkpoints ---------------------------------------------------------------------------------------
def random_tensors(config, seed, embeddings=0.3):
    """Seeded float32 weights for a config, scaled so that every part of the model shows in the logits.

    embeddings: their scale. A wide model with a tied head repeats its last token unless they are small.
    """
    config = {**DEFAULTS, **config}
    random = np.random.RandomState(seed)  # its stream is frozen: the same numbers in every numpy
    hidden, ffn, inner = config["hidden_size"], config["ffn_dim"], config["word_embed_proj_dim"]
    tensors = {}

    def matrix(name, rows, columns, bias, scale=1.0):
        tensors[name + ".weight"] = random.standard_normal((rows, columns)) * scale / math.sqrt(columns)
        if bias:
            tensors[name + ".bias"] = random.standard_normal(rows) * 0.2

    def norm(name):
        if config["layer_norm_elementwise_affine"]:
            tensors[name + ".weight"] = 1 + 0.2 * random.standard_normal(hidden)
            tensors[name + ".bias"] = 0.2 * random.standard_normal(hidden)

    root = "model.decoder."
    tensors[root + "embed_tokens.weight"] = random.standard_normal((config["vocab_size"], inner)) * embeddings
    tensors[root + "embed_positions.weight"] = random.standard_normal(
        (config["max_position_embeddings"] + 2, hidden)) * embeddings
    if inner != hidden:
        matrix(root + "project_in", hidden, inner, False, 3.0)
        matrix(root + "project_out", inner, hidden, False)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"{root}layers.{layer}."
        for name in "q_proj", "k_proj", "v_proj", "out_proj":
            matrix(prefix + "self_attn." + name, hidden, hidden, config["enable_bias"], 1.5)
        norm(prefix + "self_attn_layer_norm")
        matrix(prefix + "fc1", ffn, hidden, config["enable_bias"])
        matrix(prefix + "fc2", hidden, ffn, config["enable_bias"])
        norm(prefix + "final_layer_norm")
    if config["do_layer_norm_before"] and not config["_remove_final_layer_norm"]:
        norm(root + "final_layer_norm")
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random.standard_normal((config["vocab_size"], inner)) * 0.3
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def byte_vocabulary():
    """The smallest vocab.json of a byte-level tokenizer: OPT's special tokens and the 256 byte symbols of GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = printable + [256 + place for place in range(256 - len(printable))]
    return {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *map(chr, symbols)])}


def write_random_checkpoint(directory, config, seed, dtype="F32", shards=1, prefix="model.", embeddings=0.3):
    """A Hugging Face directory of `random_tensors`: config.json, one or more safetensors files, a tokenizer of bytes.

    prefix: what the tensor names start with; checkpoints come with "model." and without.
    """
    os.makedirs(directory, exist_ok=True)
    config = {"architectures": ["OPTForCausalLM"], "model_type": "opt", "bos_token_id": 2, "eos_token_id": 2,
              "pad_token_id": 1, "dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0,
              "dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype], **DEFAULTS, **config}
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file, indent=1)
    with open(os.path.join(directory, "vocab.json"), "w") as file:
        json.dump(byte_vocabulary(), file)
    with open(os.path.join(directory, "merges.txt"), "w") as file:
        file.write("#version: 0.2\n")
    tensors = {(prefix + name[len("model."):] if name.startswith("model.") else name): array
               for name, array in random_tensors(config, seed, embeddings).items()}
    if shards == 1:
        write_safetensors(os.path.join(directory, "model.safetensors"), tensors, dtype)
        return
    names, weight_map = list(tensors), {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard * len(names) // shards:(shard + 1) * len(names) // shards]
        write_safetensors(os.path.join(directory, file_name), {name: tensors[name] for name in part}, dtype)
        weight_map.update({name: file_name for name in part})
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file, indent=1)
