"""The parts of the clients that need no server."""
import dataclasses

import grpc
import pytest

from fake_server import pb

import h2oserve
from h2oserve._connection import Connection
from h2oserve._options import new_request
from h2oserve._retry import Attempts

OPTIONS = dict(
    request_id="me", max_tokens=5, temperature=0.5, top_k=3, top_p=0.5, min_p=0.25, seed=2**64 - 1, repetition_penalty=1.5,
    frequency_penalty=0.5, presence_penalty=-0.5, logit_bias={7: -1.0}, logprobs=True, top_logprobs=2, prompt_logprobs=True,
    stop=["a", "b"], include_stop=True, stop_token_ids=[9], ignore_eos=True, min_tokens=2, kv_policy="h2o", kv_budget="20%",
    kv_heavy=4, kv_recent=5, priority=-1, generated=[1, 2], add_special_tokens=False)


def test_every_field_has_an_option():
    request = new_request("Hi", OPTIONS)
    assert request == pb.GenerateRequest(
        request_id="me", text="Hi", max_tokens=5, ignore_eos=True, stop=["a", "b"], include_stop=True, stop_token_ids=[9],
        min_tokens=2, priority=-1, generated=[1, 2], add_special_tokens=False,
        kv_policy=pb.KvPolicy(name="h2o", percent_of_prompt=20, heavy=4, recent=5),
        sampling=pb.Sampling(temperature=0.5, top_k=3, top_p=0.5, min_p=0.25, seed=2**64 - 1, repetition_penalty=1.5,
                             frequency_penalty=0.5, presence_penalty=-0.5, logit_bias={7: -1.0}, logprobs=True, top_logprobs=2,
                             prompt_logprobs=True))
    assert set(OPTIONS) == set(h2oserve.GenerateOptions.__annotations__)
    for message in (request, request.sampling):  # a new field of the interface is an option, too
        left = set(message.DESCRIPTOR.fields_by_name) - {field.name for field, _ in message.ListFields()}
        assert left <= {"tokens"}


@pytest.mark.parametrize("ours, message", [(h2oserve.Usage, pb.Usage), (h2oserve.Event, pb.GenerateResponse),
                                           (h2oserve.ModelInfo, pb.ModelInfo), (h2oserve.Logprobs, pb.Logprobs)])
def test_every_field_of_an_answer_is_given(ours, message):
    assert {field.name for field in dataclasses.fields(ours)} == set(message.DESCRIPTOR.fields_by_name)


def test_none_is_absent():
    assert new_request("Hi", dict.fromkeys(OPTIONS)) == pb.GenerateRequest(text="Hi")


def test_prompts_budgets_and_stops():
    assert list(new_request([2, 3], {}).tokens.ids) == [2, 3]
    assert new_request([], {}).HasField("tokens")
    assert new_request("Hi", {"kv_budget": 205}).kv_policy.tokens == 205
    assert list(new_request("Hi", {"stop": "END"}).stop) == ["END"]


@pytest.mark.parametrize("options, kind, says", [
    ({"max_token": 5}, TypeError, "did you mean 'max_tokens'"), ({"xyzzy": 5}, TypeError, "no option is called 'xyzzy'"),
    ({"seed": -1}, ValueError, "seed=-1"), ({"max_tokens": "5"}, ValueError, "max_tokens='5'"),
    ({"kv_budget": "20"}, ValueError, '"20%"'), ({"kv_budget": "x%"}, ValueError, "kv_budget='x%'"),
    ({"stop_token_ids": [2**40]}, ValueError, "stop_token_ids"), ({"logit_bias": {"a": 1}}, ValueError, "logit_bias")])
def test_bad_options_are_told_before_they_are_sent(options, kind, says):
    with pytest.raises(kind, match=says):
        new_request("Hi", options)


def test_a_prompt_that_is_none():
    with pytest.raises(ValueError, match="prompt="):
        new_request([2.5], {})


# ---- Retries

AWAY, FULL = h2oserve.Unavailable("", "UNAVAILABLE"), h2oserve.Busy("", "RESOURCE_EXHAUSTED", retry_after=10)


def test_waits_double_and_end_with_the_patience():
    attempts, now, waits = Attempts(h2oserve.Retry(patience=20), None), 100.0, []
    while (wait := attempts.wait_after(AWAY, now, 0.5)) is not None:
        waits.append(wait)
        now += wait
    assert waits == [0.25, 0.5, 1, 2, 4, 4, 4, 4]
    attempts.succeeded()
    assert attempts.wait_after(AWAY, now, 0.5) == 0.25


def test_waits_are_spread_and_follow_the_server():
    wait = h2oserve.Retry().wait
    assert (wait(0, 0, None), wait(0, 1, None)) == (0.25 * 0.75, 0.25 * 1.25)
    assert (wait(0, 0, 10), wait(0, 1, 10)) == (10, 12.5)
    assert Attempts(h2oserve.Retry(patience=5), None).wait_after(FULL, 0, 0) is None
    assert Attempts(h2oserve.Retry(), 9).wait_after(FULL, 0, 0) is None  # the deadline
    assert Attempts(h2oserve.Retry(), 11).wait_after(FULL, 0, 0) == 10
    assert Attempts(h2oserve.Retry(), None).wait_after(h2oserve.ServerFault("", "INTERNAL"), 0, 0) is None


# ---- Connections

def connect(server=None, **arguments):
    return Connection(server, **{**dict.fromkeys(("api_key", "tls_ca", "tls_cert", "tls_key", "tls_name")), "tls": False, **arguments})


@pytest.mark.parametrize("server, target", [
    ("host:1", "host:1"), (["host:1"], "host:1"), ("dns:///host:1", "dns:///host:1"),
    ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"), (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2")])
def test_targets(server, target):
    connection = connect(server)
    assert connection.target == target
    assert ("grpc.service_config" in dict(connection.options)) == (target != "host:1")


@pytest.mark.parametrize("server", ["a:1,b:2", "10.0.0.1:1,[::1]:1", "10.0.0.1,10.0.0.2", ","])
def test_addresses_that_are_none(server):
    with pytest.raises(ValueError):
        connect(server)


def test_tls_reads_its_files(tmp_path):
    (tmp_path / "ca.pem").write_text("")
    assert isinstance(connect("host:1", tls_ca=tmp_path / "ca.pem").credentials, grpc.ChannelCredentials)
    assert isinstance(connect("host:1", tls=True).credentials, grpc.ChannelCredentials)
    assert connect("host:1").credentials is None
    assert ("grpc.ssl_target_name_override", "me") in connect("host:1", tls=True, tls_name="me").options
    with pytest.raises(FileNotFoundError):
        connect("host:1", tls_ca=tmp_path / "none.pem")
