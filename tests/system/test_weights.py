"""Weights of codes: the ranks that share a model serve what one rank alone generates, and what cannot be cut is refused."""
import pytest

from conftest import MODEL

PROMPT = "Once upon a time"


@pytest.mark.parametrize("weights", [["--weights", "int8"], ["--weights", "int4", "--weight-group", "64"]], ids=["int8", "int4"])
def test_ranks_that_share_codes_say_what_one_rank_says(system, generate, weights):
    serve = system.serve(*weights, tp=3)
    answer = system.client(serve).generate(PROMPT, max_tokens=24, ignore_eos=True)
    (alone,) = generate([{"prompt": PROMPT, "max_tokens": 24, "ignore_eos": True}], *weights)
    assert answer.tokens == alone["tokens"]


def test_a_group_that_two_ranks_would_share_is_refused_with_its_numbers(system):
    serve = system.start("h2oserve", "serve", "--model", MODEL, "--tp", 2, "--weights", "int4", "--listen", "127.0.0.1:0", "--http", "off")
    assert serve.wait(60) != 0
    assert "of 384, which cuts a group of 128: use another tensor parallel size, or --weight-group 64" in serve.stderr()
