"""OpenAI's own client against the OpenAI-compatible calls; what the model says is told by the SDK."""
from __future__ import annotations

import asyncio
import os

import openai
import pytest
from compat_support import BASE_MODEL, BASE_URL, TIMEOUT, TOL, ce, clogp, close, get, mi, need_server, new_tc, params
from compat_support import step, tokenizer, toks, uniq

PREFIXES = ("/v1", "/oai/api/v1")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "max_tokens": 10}


def options(prefix: str = "/v1", key: str | None = None) -> dict:
    need_server()
    key = key or os.environ["TINKER_API_KEY"]
    return {"base_url": BASE_URL.rstrip("/") + prefix, "api_key": key, "max_retries": 0, "timeout": TIMEOUT}


@pytest.fixture(scope="module")
def client():
    return openai.OpenAI(**options())


@pytest.fixture(scope="module")
def expected(base_sampler):
    """The prompt of QUESTION, and the greedy answer: token ids, log-probabilities, text."""
    tok = tokenizer(base_sampler)
    text = tok.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    prompt = tok.encode(text, add_special_tokens=False)
    response = get(base_sampler.sample(mi(prompt), 1, params(**GREEDY)))
    tokens, logprobs = response.sequences[0].tokens, response.sequences[0].logprobs
    return {"prompt": prompt, "tokens": tokens, "logprobs": logprobs, "text": tok.decode(tokens, skip_special_tokens=True)}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_models(prefix, shared_tc):
    models = openai.OpenAI(**options(prefix)).models
    assert BASE_MODEL in [model.id for model in models.list()]
    path = get(shared_tc.save_weights_for_sampler(uniq("openai"))).path
    for name in (BASE_MODEL, path):
        assert models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        models.retrieve("nobody/nothing")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_chat_is_sampling_from_the_templates_prompt(prefix, expected):
    chat = openai.OpenAI(**options(prefix)).chat.completions
    answer = chat.create(model=BASE_MODEL, messages=QUESTION, logprobs=True, top_logprobs=2, **GREEDY)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content == expected["text"]
    content = choice.logprobs.content
    assert close([token.logprob for token in content], expected["logprobs"][: len(content)], TOL)
    for token in content:
        assert token.top_logprobs[0].token == token.token and len(token.top_logprobs) == 2
    assert answer.usage.prompt_tokens == len(expected["prompt"])
    assert answer.usage.completion_tokens == len(expected["tokens"])


def test_streamed_chat(client, expected):
    stream = client.chat.completions.create(
        model=BASE_MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == expected["text"] and len(pieces) > 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == len(expected["tokens"])


def test_completion_by_token_ids(client, expected):
    answer = client.completions.create(model=BASE_MODEL, prompt=expected["prompt"], logprobs=2, **GREEDY)
    choice = answer.choices[0]
    assert choice.text == expected["text"]
    scores = choice.logprobs.token_logprobs
    assert close(scores, expected["logprobs"][: len(scores)], TOL)
    assert "".join(choice.logprobs.tokens) == choice.text
    placed = zip(choice.logprobs.text_offset, choice.logprobs.tokens)
    assert all(choice.text.startswith(token, at) for at, token in placed)


def test_echo_scores_the_prompt(client, base_sampler):
    ids = toks(20, 410)
    answer = client.completions.create(model=BASE_MODEL, prompt=ids, echo=True, logprobs=0, max_tokens=0)
    scores = answer.choices[0].logprobs.token_logprobs
    assert scores[0] is None and close(scores[1:], clogp(base_sampler, ids)[1:], TOL)


def test_samples_seeds_and_stops(client, expected):
    def draw(seed: int) -> list[str]:
        answer = client.chat.completions.create(model=BASE_MODEL, messages=QUESTION, max_tokens=8, n=3, seed=seed)
        return [choice.message.content for choice in answer.choices]

    first = draw(1)
    assert len(first) == 3 and draw(1) == first and draw(2) != first
    stop = expected["text"][5:8]
    answer = client.chat.completions.create(model=BASE_MODEL, messages=QUESTION, stop=[stop], **GREEDY)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == expected["text"].split(stop)[0]


def test_a_checkpoint_by_its_path(client, service):
    tc = new_tc(service)
    ids = toks(12, 411)
    for _ in range(4):
        step(tc, [ce(ids)], lr=2e-2)
    name = uniq("openai")
    path = get(tc.save_weights_for_sampler(name)).path
    trained = clogp(service.create_sampling_client(model_path=path), ids)[1:]

    def scores(model: str) -> list[float]:
        answer = client.completions.create(model=model, prompt=ids, echo=True, logprobs=0, max_tokens=0)
        return answer.choices[0].logprobs.token_logprobs[1:]

    assert close(scores(path), trained, TOL)
    assert not close(scores(BASE_MODEL), trained, 0.5)


def test_concurrent_requests(expected):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(**options()) as client:
            request = {"model": BASE_MODEL, "messages": QUESTION, **GREEDY}
            answers = await asyncio.gather(*(client.chat.completions.create(**request) for _ in range(6)))
            return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(ask()) == [expected["text"]] * 6


def test_errors_have_the_clients_types(client):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(**options(key="tml-wrong-key-000")).models.list()
    request = {"model": BASE_MODEL, "messages": QUESTION, "max_tokens": 1}
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**request, "model": "nobody/nothing"})
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    refused = [
        ({"temperature": -1}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"stream": True, "n": 0}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "weather"}}]}, "tools"),
    ]
    for more, param in refused:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(**request, **more)
        assert bad.value.param == param, bad.value
