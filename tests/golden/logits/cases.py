"""The small random models and the tokens of the golden logits, shared by the script that makes them and the tests.

Only logits are stored: each model is written anew, from its seed, by opt_numpy.write_random_checkpoint. Together the
models cover every way in which one OPT differs from another, and every way in which checkpoints are stored.
"""
import dataclasses
import random

TINY = {"vocab_size": 301, "max_position_embeddings": 64, "num_hidden_layers": 2}  # 301: no tp but 1 and 7 divides it


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    seed: int
    heads: int
    head_dim: int
    changes: dict = dataclasses.field(default_factory=dict)  # in config.json
    dtype: str = "F32"  # of the stored weights
    shards: int = 1
    prefix: str = "model."  # of the tensor names

    @property
    def config(self):
        hidden = self.heads * self.head_dim
        return {**TINY, "hidden_size": hidden, "num_attention_heads": self.heads, "ffn_dim": 3 * hidden + 8,
                "word_embed_proj_dim": hidden, "tie_word_embeddings": True, **self.changes}

    @property
    def tokens(self):
        draw = random.Random(self.seed)
        return [2] + [draw.randrange(3, TINY["vocab_size"]) for _ in range(23)]


CASES = [
    Case("post_norm_projections", 1, 2, 64, {"do_layer_norm_before": False, "word_embed_proj_dim": 48}, dtype="F16"),
    Case("head_dim_64", 2, 3, 64, dtype="F16", shards=2),
    Case("head_dim_80", 3, 3, 80),
    Case("head_dim_128", 4, 2, 128, dtype="BF16"),
    Case("no_bias", 5, 2, 64, {"enable_bias": False}),
    Case("untied_head", 6, 2, 64, {"tie_word_embeddings": False}, prefix=""),
    Case("gelu", 7, 2, 64, {"activation_function": "gelu"}),
    Case("no_affine", 8, 2, 64, {"layer_norm_elementwise_affine": False}),
    Case("no_final_norm", 9, 2, 64, {"_remove_final_layer_norm": True}, dtype="F16", prefix=""),
    Case("galactica", 10, 4, 64, {"enable_bias": False, "activation_function": "gelu"}, dtype="F16"),
    Case("pre_norm_projections_untied", 11, 2, 80, {"word_embed_proj_dim": 64, "tie_word_embeddings": False},
         dtype="BF16", shards=3),
    Case("post_norm", 12, 2, 80, {"do_layer_norm_before": False, "enable_bias": False}),
]

# Linear layers stored as codes, by tests/coded_checkpoint.py; transformers reads these layouts. The last rows are kept.
CODED = Case("coded", 13, 3, 64, {"ffn_dim": 576})
CODED_LAYOUTS = ("int4", "int4-symmetric", "int8", "int8-packed", "fp8")
CODED_ROWS = 6

# models/opt-demo: two prompts of 40 tokens; every 24th column of all rows is kept, and the whole last row.
DEMO_COLUMNS = 24


def demo_prompts(vocabulary):
    draw = random.Random(7)
    return [[2] + [draw.randrange(4, vocabulary) for _ in range(39)] for _ in range(2)]
