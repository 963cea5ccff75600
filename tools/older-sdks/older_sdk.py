"""One training and sampling session, written so that every SDK since 0.18 runs it; older ones speak JSON."""
from __future__ import annotations

import os
import uuid

import numpy as np
import pytest
import tinker
from tinker import types

BASE_MODEL = os.environ.get("BASE_MODEL", "")
TOLERANCE = 0.002
TOKENS = np.random.RandomState(0).randint(50, 1000, size=10).tolist()

if not BASE_MODEL or not os.environ.get("TINKER_BASE_URL"):
    pytest.skip("set TINKER_BASE_URL, TINKER_API_KEY and BASE_MODEL", allow_module_level=True)


def settle(answer):
    """Newer SDKs give a future where older ones wait."""
    return answer.result() if hasattr(answer, "result") else answer


def datum(tokens: list[int]) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.asarray(tokens[1:], dtype=np.int64),
            "weights": np.ones(len(tokens) - 1, dtype=np.float32),
        },
    )


def logprobs(output) -> np.ndarray:
    return np.asarray(output.loss_fn_outputs[0]["logprobs"].data, dtype=np.float64)


def scored(sampler, tokens: list[int]) -> np.ndarray:
    return np.asarray(settle(sampler.compute_logprobs(types.ModelInput.from_ints(tokens)))[1:], dtype=np.float64)


@pytest.fixture(scope="module")
def service():
    return tinker.ServiceClient()


@pytest.fixture
def model(service):
    return settle(service.create_lora_training_client(base_model=BASE_MODEL, rank=4, seed=1))


def test_capabilities(service):
    models = settle(service.get_server_capabilities()).supported_models
    assert BASE_MODEL in [m.model_name for m in models]


def test_training_lowers_the_loss(model):
    data = [datum(TOKENS)]
    first = settle(model.forward(data, "cross_entropy"))
    assert abs(first.metrics["loss:sum"] + logprobs(first).sum()) < 1e-2
    for _ in range(4):
        backward = model.forward_backward(data, "cross_entropy")
        update = model.optim_step(types.AdamParams(learning_rate=2e-3))
        settle(backward), settle(update)
    assert settle(model.forward(data, "cross_entropy")).metrics["loss:sum"] < first.metrics["loss:sum"]


def test_policy_loss_with_a_configuration(model):
    tokens, zeros = TOKENS[1:], np.zeros(len(TOKENS) - 1, dtype=np.float32)
    data = types.Datum(
        model_input=types.ModelInput.from_ints(TOKENS[:-1]),
        loss_fn_inputs={
            "target_tokens": np.asarray(tokens, dtype=np.int64),
            "logprobs": logprobs(settle(model.forward([datum(TOKENS)], "cross_entropy"))).astype(np.float32),
            "advantages": zeros + 1,
        },
    )
    out = settle(model.forward_backward([data], "ppo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}))
    assert abs(out.metrics["loss:sum"] + len(tokens)) < 1e-2  # every ratio is 1


def test_saving_resuming_and_sampling(service, model):
    settle(model.forward_backward([datum(TOKENS)], "cross_entropy"))
    settle(model.optim_step(types.AdamParams(learning_rate=5e-3)))
    trained = logprobs(settle(model.forward([datum(TOKENS)], "cross_entropy")))
    name = uuid.uuid4().hex[:8]
    state = settle(model.save_state(name)).path
    resumed = settle(service.create_training_client_from_state(state))
    assert np.max(np.abs(logprobs(settle(resumed.forward([datum(TOKENS)], "cross_entropy"))) - trained)) < TOLERANCE
    path = settle(model.save_weights_for_sampler(name)).path
    for sampler in (
        settle(service.create_sampling_client(model_path=path)),
        settle(model.save_weights_and_get_sampling_client(name=f"{name}-again")),
    ):
        assert np.max(np.abs(scored(sampler, TOKENS) - trained)) < TOLERANCE
        params = types.SamplingParams(max_tokens=6, temperature=1.0, seed=3, stop=[])
        result = settle(sampler.sample(types.ModelInput.from_ints(TOKENS), 2, params))
        assert [len(s.tokens) for s in result.sequences] == [6, 6]
        again = scored(sampler, TOKENS + list(result.sequences[0].tokens))[len(TOKENS) - 1 :]
        assert np.max(np.abs(np.asarray(result.sequences[0].logprobs) - again)) < TOLERANCE


def test_errors_reach_the_caller(model):
    with pytest.raises(Exception, match="100000000"):
        settle(model.forward_backward([datum([5, 100_000_000, 7])], "cross_entropy"))
    settle(model.forward([datum(TOKENS)], "cross_entropy"))


def test_listing(service, model):
    rest = service.create_rest_client()
    runs = settle(rest.list_training_runs(limit=100)).training_runs
    assert model.model_id in [run.training_run_id for run in runs]
