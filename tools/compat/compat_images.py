"""Images through the real SDK: in training, in prompts, sent whole or named, and refused with the number of their tokens."""
from __future__ import annotations

import math

import numpy as np
import pytest
from compat_support import REFUSALS, get
from own_server import FIXTURES, OwnServer
from tinker import types

IMAGES = FIXTURES / "images"
# 61 x 40 pixels, and 19 x 23, at 16 pixels per token.
PHOTO, PHOTO_TOKENS = (IMAGES / "photo.jpg").read_bytes(), 8
SMALL, SMALL_TOKENS = (IMAGES / "small.png").read_bytes(), 1
BEFORE, AFTER = [5, 17, 359], [360, 60, 80]
MODEL = "sees"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sees")
    server = OwnServer(folder, MODEL, "arch/qwen3_vl/model", "--assets-dir", str(IMAGES))
    try:
        server.wait()
        yield server.service()
    finally:
        server.stop()


def photo(expected: int | None = PHOTO_TOKENS, data: bytes = PHOTO) -> types.ImageChunk:
    return types.ImageChunk(data=data, format="jpeg", expected_tokens=expected)


def around(chunk) -> types.ModelInput:
    return types.ModelInput(chunks=[types.EncodedTextChunk(tokens=BEFORE), chunk, types.EncodedTextChunk(tokens=AFTER)])


def datum(chunk, count: int = PHOTO_TOKENS) -> types.Datum:
    targets = [*BEFORE[1:], *[0] * (count + 1), *AFTER[1:], 41]
    weights = [0.0] * (len(targets) - len(AFTER)) + [1.0] * len(AFTER)
    return types.Datum(
        model_input=around(chunk),
        loss_fn_inputs={"target_tokens": np.array(targets), "weights": np.array(weights, dtype=np.float32)},
    )


def greedy(sampler, chunk):
    answer = get(sampler.sample(around(chunk), 1, types.SamplingParams(max_tokens=6, temperature=0)))
    return list(answer.sequences[0].tokens), np.array(answer.sequences[0].logprobs)


def test_an_image_in_a_datum_trains(seeing):
    client = seeing.create_lora_training_client(base_model=MODEL, rank=4).result()
    losses = []
    for _ in range(5):
        losses.append(get(client.forward_backward([datum(photo())], "cross_entropy")).metrics["loss:sum"])
        get(client.optim_step(types.AdamParams(learning_rate=1e-2)))
    assert losses[-1] < losses[0] - 0.5
    small = types.ImageChunk(data=SMALL, format="png", expected_tokens=SMALL_TOKENS)
    output = get(client.forward([datum(photo()), datum(small, SMALL_TOKENS)], "cross_entropy"))
    seen, other = (np.array(record["logprobs"].data)[-3:] for record in output.loss_fn_outputs)
    assert np.abs(seen - other).max() > 0.01, "the image makes no difference"


def test_an_image_in_a_prompt_is_sampled_from_and_scored(seeing):
    sampler = seeing.create_sampling_client(base_model=MODEL).result()
    tokens, logprobs = greedy(sampler, photo())
    again, same = greedy(sampler, photo(expected=None))
    assert tokens == again and np.abs(logprobs - same).max() < 1e-4
    _, others = greedy(sampler, types.ImageChunk(data=SMALL, format="png", expected_tokens=SMALL_TOKENS))
    assert np.abs(logprobs - others).max() > 0.01, "the image makes no difference"
    scored = get(sampler.compute_logprobs(around(photo())))
    assert len(scored) == len(BEFORE) + PHOTO_TOKENS + len(AFTER)
    missing = [i for i, logprob in enumerate(scored) if logprob is None or math.isnan(logprob)]
    assert missing == [0, *range(len(BEFORE), len(BEFORE) + PHOTO_TOKENS)]


def test_training_and_sampling_see_the_same_image(seeing):
    sampler = seeing.create_sampling_client(base_model=MODEL).result()
    scored = get(sampler.compute_logprobs(around(photo())))
    client = seeing.create_lora_training_client(base_model=MODEL, rank=4).result()
    trained = get(client.forward([datum(photo())], "cross_entropy")).loss_fn_outputs[0]["logprobs"].data
    assert np.abs(np.array(scored[-2:]) - np.array(trained[-3:-1])).max() < 1e-3


def test_wrong_expected_tokens_are_refused_with_the_count(seeing):
    sampler = seeing.create_sampling_client(base_model=MODEL).result()
    with pytest.raises(REFUSALS, match="takes 8 tokens"):
        greedy(sampler, photo(expected=9))
    client = seeing.create_lora_training_client(base_model=MODEL, rank=4).result()
    with pytest.raises(REFUSALS, match="takes 8 tokens"):
        get(client.forward_backward([datum(photo(expected=7), 7)], "cross_entropy"))
    get(client.forward_backward([datum(photo())], "cross_entropy"))


def test_an_image_can_be_named(seeing):
    sampler = seeing.create_sampling_client(base_model=MODEL).result()

    def named(location: str):
        return types.ImageAssetPointerChunk(format="jpeg", location=location, expected_tokens=PHOTO_TOKENS)

    assert greedy(sampler, named("photo.jpg"))[0] == greedy(sampler, photo())[0]
    with pytest.raises(REFUSALS, match="is no file in the folder of assets"):
        greedy(sampler, named("other.jpg"))
    with pytest.raises(REFUSALS, match="is a URL"):
        greedy(sampler, named("https://example.com/photo.jpg"))


def test_a_model_that_reads_text_only_says_so(base_sampler):
    with pytest.raises(REFUSALS, match="reads text only"):
        greedy(base_sampler, photo())
