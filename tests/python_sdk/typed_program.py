"""What a type checker must say of programs that use the package: nothing, and an error on each line that ignores one."""
import asyncio

import h2oserve


def right(client: h2oserve.Client) -> str:
    for event in client.stream("Hi", max_tokens=5, stop="END", kv_budget="20%", seed=None):
        first: int = event.tokens[0]
        if event.usage is not None:
            print(first + event.usage.completion_tokens)
    answer = client.generate([2, 3], logit_bias={7: 1.0}, timeout=5)
    if answer.finish_reason == "length":
        return answer.text
    return client.model_info().name


async def right_too(client: h2oserve.AsyncClient) -> float | None:
    async with client.stream("Hi", logprobs=True, top_logprobs=3) as stream:
        async for event in stream:
            print(event.logprobs[0].chosen.logprob)
    answers = await asyncio.gather(*(client.generate("Hi") for _ in range(3)))
    try:
        await client.generate(answers[0].text)
    except h2oserve.Busy as busy:
        return busy.retry_after
    return None


def wrong(client: h2oserve.Client) -> None:
    client.generate("Hi", max_token=5)  # type: ignore[call-arg]
    client.generate("Hi", max_tokens="5")  # type: ignore[arg-type]
    client.generate(5)  # type: ignore[arg-type]
    print(client.generate("Hi").usage.replays)  # type: ignore[union-attr]
    if client.generate("Hi").finish_reason == "abort":  # type: ignore[comparison-overlap]
        pass
