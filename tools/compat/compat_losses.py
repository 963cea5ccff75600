"""Losses through the real SDK: what `dpo` does with pairs, references and cut calls, how bad requests end, custom losses."""
from __future__ import annotations

import numpy as np
import pytest
from compat_support import BASE_MODEL, REFUSALS, ce, get, lps, mi, new_tc, params, rl, toks
from tinker import types


def answer(prompt: int, reply: int, **extra) -> types.Datum:
    """A prompt of five tokens that depends on `prompt` only, and a reply of three; only the reply has weight."""
    datum = ce(toks(5, 900 + prompt) + toks(3, 950 + reply), [0.0] * 4 + [1.0] * 3)
    return types.Datum(model_input=datum.model_input, loss_fn_inputs=datum.loss_fn_inputs | extra)


def pairs(count: int) -> list[types.Datum]:
    return [answer(i, 2 * i + side) for i in range(count) for side in (0, 1)]


def rewards(before, after, data) -> list[float]:
    weights = np.asarray([0.0] * 4 + [1.0] * 3)
    return [float(((lps(after, i) - lps(before, i)) * weights).sum()) for i in range(len(data))]


def gradient_norm(tc) -> float:
    return get(tc.optim_step(types.AdamParams(learning_rate=0.0))).metrics["grad_norm:l2"]


def refusal(call) -> str:
    with pytest.raises(REFUSALS) as e:
        get(call())
    return str(e.value)


@pytest.fixture(scope="module")
def trained(service):
    """An adapter that differs from the base model."""
    tc = new_tc(service, seed=3)
    data = pairs(2)
    for _ in range(2):
        get(tc.forward_backward(data[::2], "cross_entropy"))
        get(tc.optim_step(types.AdamParams(learning_rate=3e-3)))
    return tc


def test_dpo_against_the_base_model_equals_its_formula(service, trained):
    data = pairs(2)
    base = get(new_tc(service, seed=3).forward(data, "cross_entropy"))
    r = [0.2 * x for x in rewards(base, get(trained.forward(data, "cross_entropy")), data)]
    margins = np.asarray([r[0] - r[1], r[2] - r[3]])
    metrics = get(trained.forward(data, "dpo", {"beta": 0.2, "reference": "base"})).metrics
    assert abs(metrics["loss:sum"] - float(np.log1p(np.exp(-margins)).mean())) < 2e-3
    assert abs(metrics["margin:mean"] - float(margins.mean())) < 5e-3
    assert metrics["accuracy:mean"] == float((margins > 0).mean())
    assert abs(metrics["chosen_reward:mean"] - (r[0] + r[2]) / 2) < 5e-3

    given = [
        types.Datum(
            model_input=d.model_input,
            loss_fn_inputs=d.loss_fn_inputs | {"ref_logprobs": types.TensorData.from_numpy(lps(base, i).astype(np.float32))},
        )
        for i, d in enumerate(data)
    ]
    assert abs(get(trained.forward(given, "dpo", {"beta": 0.2})).metrics["loss:sum"] - metrics["loss:sum"]) < 1e-3


def test_dpo_pairs_tied_by_id_in_any_order(trained):
    def with_id(d: types.Datum, number: int) -> types.Datum:
        ids = types.TensorData.from_numpy(np.full(7, number, dtype=np.int64))
        return types.Datum(model_input=d.model_input, loss_fn_inputs=d.loss_fn_inputs | {"pair_id": ids})

    data, config = pairs(2), {"reference": "base"}
    want = get(trained.forward(data, "dpo", config))
    tied = [with_id(data[2], 70), with_id(data[0], 9), with_id(data[1], 9), with_id(data[3], 70)]
    got = get(trained.forward(tied, "dpo", config))
    assert abs(got.metrics["loss:sum"] - want.metrics["loss:sum"]) < 1e-3
    assert np.max(np.abs(lps(got, 0) - lps(want, 2))) < 2e-3
    assert "pair_id 70 stands in data[0] only" in refusal(lambda: trained.forward(tied[:3], "dpo", config))


@pytest.mark.parametrize("cut", [1, 3])
def test_a_pair_that_the_sdk_cuts_apart_is_refused(service, monkeypatch, cut):
    tc, data, config = new_tc(service, rank=4), pairs(3), {"reference": "base"}
    get(tc.forward_backward(data[:2], "dpo", config))
    small = tc.holder._client_config.model_copy(update={"fwdbwd_max_chunk_len": cut})
    monkeypatch.setattr(tc.holder, "_client_config", small)
    assert "fewer pairs per call" in refusal(lambda: tc.forward_backward(data, "dpo", config))
    monkeypatch.undo()
    after = gradient_norm(tc)
    get(tc.forward_backward(data[:2], "dpo", config))
    assert after == pytest.approx(gradient_norm(tc), rel=1e-4)


def test_bad_requests_name_the_fault_and_leave_the_gradient(service):
    tc, ids = new_tc(service, rank=4), toks(6, 77)
    good = rl(ids, [-1.0] * 5, [1.0, -1.0, 0.5, 2.0, 0.0])
    missing = types.Datum(
        model_input=good.model_input,
        loss_fn_inputs={k: v for k, v in good.loss_fn_inputs.items() if k != "advantages"},
    )
    get(tc.forward_backward([good], "ppo"))
    bad = [
        ("ppo", [good], {"epsilon": 0.2}, ["epsilon", "clip_low_threshold"]),
        ("dro", [good], {"beta": -0.1}, ["beta", "-0.1", "at least 0"]),
        ("dpo", pairs(1), {"beta": 0.0, "reference": "base"}, ["beta", "is 0", "above 0"]),
        ("ppo", [good], {"clip_low_threshold": 1.5}, ["clip_low_threshold", "1.5", "1.2"]),
        ("cispo", [good], {"clip_high_threshold": float("nan")}, ["clip_high_threshold", "NaN", "finite"]),
        ("gspo", [good, missing], None, ["data[1]", "advantages", "missing"]),
        ("ppo", [rl(ids, [-1.0] * 5, [0, 1, float("nan"), 0, 0])], None, ["data[0]", "advantages[2]", "NaN"]),
        ("importance_sampling", [good, rl(ids, [-1, -900, -1, -1, -1], [1.0] * 5)], None, ["data[1]", "position 1", "Infinity"]),
        ("stable_reinforce", [good], None, ["importance_sampling", "ppo", "cispo"]),
        ("no_such_loss", [good], None, ["no_such_loss", "cross_entropy", "dpo"]),
    ]
    for loss, data, config, words in bad:
        message = refusal(lambda: tc.forward_backward(data, loss, config))
        assert all(word in message for word in words), message
    after = gradient_norm(tc)
    get(tc.forward_backward([good], "ppo"))
    assert after == pytest.approx(gradient_norm(tc), rel=1e-4)


def test_policy_losses_tell_how_far_off_policy_the_data_is(shared_tc):
    ids = toks(8, 78)
    p = lps(get(shared_tc.forward([ce(ids)], "cross_entropy")))
    q = p - 0.3
    datum = rl(ids, q.astype(np.float32), np.asarray([1.0, -1.0] * 3 + [1.0], dtype=np.float32))
    metrics = get(shared_tc.forward([datum], "ppo", {"kl_coeff": 0.5, "reference": "base"})).metrics
    assert metrics["ratio:max"] == pytest.approx(np.exp(0.3), rel=5e-3)
    assert metrics["kl:mean"] == pytest.approx(np.exp(0.3) - 1.3, rel=2e-2)
    assert metrics["clip_fraction:mean"] == pytest.approx(4 / 7, rel=1e-4)
    assert metrics["entropy:mean"] == pytest.approx(-p.mean(), rel=1e-3)
    assert abs(metrics["kl_ref:mean"]) < 1e-4  # a new adapter is the base model


def test_recordings_for_stable_reinforce_are_asked_for_without_effect(service):
    sampler = service.create_sampling_client(base_model=BASE_MODEL).result()
    recording = service.create_sampling_client(base_model=BASE_MODEL, record_stability_info=True).result()
    options = params(max_tokens=4, seed=5, temperature=1.0)
    a, b = (get(s.sample(mi(toks(6, 79)), 1, options)).sequences[0] for s in (sampler, recording))
    assert a.tokens == b.tokens


def test_a_traced_custom_loss_is_computed_in_the_client(service):
    """create_custom_loss checks and traces; without an upload, forward_backward_custom evaluates the handle's function."""
    pytest.importorskip("torch")

    def neg_ll(logprobs, weights):
        loss = -(logprobs * weights).sum()
        return loss, {"custom/neg_ll:sum": loss}

    handle = get(service.create_custom_loss(neg_ll, {"logprobs": 1, "weights": 1}))
    tc, data = new_tc(service, rank=4), pairs(1)
    metrics = get(tc.forward_backward_custom(data, handle)).metrics
    by_handle = gradient_norm(tc)
    built_in = get(tc.forward_backward(data, "cross_entropy")).metrics
    assert metrics["loss:sum"] == pytest.approx(built_in["loss:sum"], rel=1e-4)
    assert metrics["custom/neg_ll:sum"] == pytest.approx(built_in["loss:sum"], rel=1e-4)
    assert by_handle == pytest.approx(gradient_norm(tc), rel=1e-3)
