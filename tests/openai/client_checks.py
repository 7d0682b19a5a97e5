"""The openai package against a server, unchanged: run by tests/system/test_openai.py with the packages of build/pypi.

H2O_URL  where the server serves HTTP; it has a chat template
"""
import asyncio
import os

import openai
import pytest

URL = os.environ["H2O_URL"] + "/v1"
MODEL = "opt-demo"
PROMPT = "The keys and values that matter"



@pytest.fixture
def client():
    return openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=30)


def greedy(client, **fields):
    return client.completions.create(**{"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **fields})


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == MODEL and model.object == "model" and model.max_model_len == 2048
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("other")
    assert error.value.code == "model_not_found" and error.value.param == "model"


def test_a_completion(client):
    answer = greedy(client)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-") and answer.model == MODEL
    (choice,) = answer.choices
    assert choice.finish_reason == "length" and choice.text and choice.logprobs is None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.kv["policy"] == "full" and answer.usage.kv["bytes"] == answer.usage.kv["bytes_full"]
    assert greedy(client).choices[0].text == choice.text


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = greedy(client)
    chunks = list(greedy(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert chunks[-2].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1


def test_prompts_of_tokens_and_lists_of_prompts(client):
    alone = [greedy(client, prompt=prompt).choices[0].text for prompt in ("One", "Two", "Three")]
    together = greedy(client, prompt=["One", "Two", "Three"])
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    tokens = greedy(client, prompt=[[2, 43, 970], [2, 82]])
    assert greedy(client, prompt=[2, 82]).choices[0].text == tokens.choices[1].text
    assert tokens.usage.prompt_tokens == 5 and tokens.usage.completion_tokens == 24


def test_seeds_and_choices(client):
    def texts(**fields):
        answer = greedy(client, temperature=1, **fields)
        return [choice.text for choice in answer.choices]
    several = texts(seed=-3, n=4)
    assert len(set(several)) > 1
    assert several == [texts(seed=-3 + i)[0] for i in range(4)], "choice i draws with the seed + i"
    answer = greedy(client, temperature=1)
    assert texts(seed=answer.seed) == [answer.choices[0].text], "the answer tells its seed"
    chunks = list(greedy(client, temperature=1, seed=-3, n=4, stream=True))
    streamed = [""] * 4
    for chunk in chunks:
        assert chunk.seed == -3
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == several


def test_stop(client):
    text = greedy(client).choices[0].text
    stop = text[4:7]
    (choice,) = greedy(client, stop=stop).choices
    assert choice.text == text[:text.index(stop)] and choice.finish_reason == "stop" and choice.stop_reason == stop
    (choice,) = greedy(client, stop=[stop], extra_body={"include_stop_str_in_output": True}).choices
    assert choice.text == text[:text.index(stop) + len(stop)]
    first = greedy(client, extra_body={"return_token_ids": True}).choices[0].token_ids[0]
    (choice,) = greedy(client, extra_body={"stop_token_ids": [first]}).choices
    assert choice.stop_reason == first and choice.finish_reason == "stop"


def test_policies_are_one_more_field(client):
    answer = greedy(client, prompt=PROMPT * 20, max_tokens=4, extra_body={"kv_policy": "h2o", "kv_budget": "20%"})
    kv = answer.usage.kv
    assert kv["policy"] == "h2o" and kv["tokens_evicted"] > 0 and kv["bytes"] < kv["bytes_full"]
    assert 0 < kv["attention_mass_kept"] <= 1


@pytest.mark.parametrize("fields, param", [
    ({"temperature": -1}, "temperature"), ({"top_p": 2}, "top_p"), ({"max_tokens": -1}, "max_tokens"),
    ({"n": 0}, "n"), ({"stop": ["x"] * 17}, "stop"), ({"suffix": "x"}, "suffix"), ({"prompt": []}, "prompt"),
    ({"extra_body": {"response_format": {"type": "json_object"}}}, "response_format"),
    ({"extra_body": {"kv_policy": "best"}}, "kv_policy"),
])
def test_errors_name_the_field(client, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        greedy(client, **fields)
    assert error.value.param == param and error.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        greedy(client, **{**fields, "stream": True})


def test_what_never_fits(client):
    with pytest.raises(openai.BadRequestError) as error:
        greedy(client, max_tokens=5000)
    assert error.value.code == "context_length_exceeded"


def test_the_request_id_comes_back(client):
    answer = greedy(client, extra_headers={"x-request-id": "mine-7"})
    assert answer._request_id == "mine-7" and answer.id == "cmpl-mine-7"


def test_a_timeout_ends_the_request(client):
    with pytest.raises(openai.APITimeoutError):
        greedy(client, max_tokens=1900, timeout=0.05, extra_body={"ignore_eos": True})


def test_64_streams_at_once():
    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0, timeout=60) as client:
            async def one(i):
                stream = await client.completions.create(model=MODEL, prompt=f"{i} and", max_tokens=8, temperature=0,
                                                         stream=True, extra_body={"ignore_eos": True})
                return "".join([choice.text async for chunk in stream for choice in chunk.choices])
            return await asyncio.gather(*(one(i % 8) for i in range(64)))
    texts = asyncio.run(all_of_them())
    assert len(texts) == 64 and all(texts) and len(set(texts)) <= 8


def test_logprobs(client):
    (choice,) = greedy(client, logprobs=3).choices
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 12
    assert "".join(logprobs.tokens) == choice.text
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert top[token] == logprob == max(top.values()) and len(top) == 3
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    chunks = list(greedy(client, logprobs=3, stream=True))
    streamed = [logprob for chunk in chunks for choice in chunk.choices for logprob in choice.logprobs.token_logprobs]
    assert streamed == logprobs.token_logprobs


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_with_logprobs_as_lm_eval_asks(client, max_tokens):
    prompt = [2, 43, 970, 82, 640]
    answer = greedy(client, prompt=[prompt], echo=True, logprobs=1, max_tokens=max_tokens, seed=1234)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.token_logprobs) == len(prompt) + max_tokens
    assert logprobs.token_logprobs[0] is None and all(logprob <= 0 for logprob in logprobs.token_logprobs[1:])
    assert answer.usage.completion_tokens == max_tokens


def test_the_best_of_several(client):
    best = greedy(client, temperature=1, seed=5, n=1, extra_body={"best_of": 4}).choices[0].text
    four = greedy(client, temperature=1, seed=5, n=4, logprobs=0).choices
    means = [sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs) for choice in four]
    assert best == four[means.index(max(means))].text


def test_a_chat(client):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    ask = {"model": MODEL, "messages": messages, "max_completion_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(**ask)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    message = answer.choices[0].message
    assert message.role == "assistant" and message.content
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert client.chat.completions.create(**{**ask, "messages": parts}).choices[0].message.content
    for fields in ({"messages": []}, {"tools": [{"type": "function", "function": {"name": "f"}}]},
                   {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**{**ask, **fields})


def test_langchain():
    from langchain_openai import ChatOpenAI
    model = ChatOpenAI(model=MODEL, base_url=URL, api_key="none", temperature=0, max_tokens=8, max_retries=0)
    assert model.invoke("Hello").content
    assert "".join(part.content for part in model.stream("Hello"))


def test_langchain_completes():
    from langchain_openai import OpenAI
    model = OpenAI(model=MODEL, base_url=URL, api_key="none", temperature=0, max_tokens=8, max_retries=0)
    assert model.invoke(PROMPT)
