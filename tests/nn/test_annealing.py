"""Encoder-side search: what it gives is whole, never worse than rounding, and the same each time."""

import pytest
import torch

from vcm.nn.annealing import annealed_round, refine


def test_annealed_rounding_lies_between_the_neighbours_and_closes_in_on_the_nearest():
    v = torch.tensor([-1.6, -0.5, -0.2, 0.0, 0.3, 0.5, 0.8, 2.0])
    warm, cold = annealed_round(v, 0.5), annealed_round(v, 0.01)
    for soft in (warm, cold):
        assert ((v.floor() <= soft) & (soft <= v.floor() + 1)).all()
    unclear = (v - v.floor()) == 0.5
    torch.testing.assert_close(cold[~unclear], v.round()[~unclear])
    torch.testing.assert_close(warm[unclear], v[unclear])
    assert (cold - v.round())[~unclear].abs().max() < (warm - v.round())[~unclear].abs().max()


def test_annealed_rounding_has_a_gradient_everywhere():
    v = torch.linspace(-2, 2, 41, requires_grad=True)
    annealed_round(v, 0.3).sum().backward()
    assert v.grad.isfinite().all()
    assert (v.grad > 0).all()


def coupled(seed=0, size=40):
    """A point, and how far symbols are from it after a low-pass filter, where rounding is not best."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.ones(size, size).tril().triu(-3) + 0.2 * torch.eye(size)
    point = 3 * torch.randn(size, generator=generator)
    return point, lambda s: (mix @ (s - point)).square().mean()


def test_a_search_finds_better_symbols_than_rounding():
    ratios = []
    for seed in range(20):
        point, objective = coupled(seed)
        found = refine(point, objective, 30)
        assert torch.equal(found, found.round())
        assert torch.equal(found, refine(point, objective, 30))
        ratios.append(float(objective(found) / objective(point.round())))
    assert sum(ratios) / 20 < 0.9
    assert sum(ratio < 1 for ratio in ratios) >= 15


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_search_is_never_worse_than_rounding(steps):
    for seed in range(10):
        point, objective = coupled(seed)
        assert objective(refine(point, objective, steps)) <= objective(point.round())


def test_no_steps_are_rounding_alone():
    point, objective = coupled()
    assert torch.equal(refine(point, objective, 0), point.round())


def test_a_step_that_is_not_finite_ends_the_search_with_the_best_so_far():
    point, objective = coupled()
    calls = []

    def breaks(s):
        calls.append(s)
        return objective(s) * (float("nan") if len(calls) > 20 and s.requires_grad else 1.0)

    found = refine(point, breaks, 1000)
    assert objective(found) < objective(point.round())
    assert len(calls) == 23  # 20 steps, one that is not finite, and two to choose
    assert torch.equal(refine(point, lambda s: s.sum() * float("nan"), 5), point.round())


def test_a_search_keeps_the_best_of_what_it_rounds_on_its_way():
    calls, rounded = [], []

    def worsens(s):
        """Pulls towards 5 at first, and harder away from it after half of the steps."""
        if s.requires_grad:
            calls.append(s)
            return ((s - 5) if len(calls) <= 50 else 10 * (s + 5)).square().sum()
        rounded.append(s)
        return (s - 5).square().sum()

    found = refine(torch.zeros(4), worsens, 100)
    assert len(rounded) == 4  # rounding alone, half, three quarters, the end
    errors = [float((s - 5).square().sum()) for s in rounded]
    assert errors[1] < min(errors[0], *errors[2:])
    assert torch.equal(found, rounded[1])


def test_a_search_tells_its_steps_and_runs_where_gradients_are_off():
    point, objective = coupled()
    told = []
    with torch.inference_mode():
        found = refine(point, objective, 3, on_step=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(found, refine(point, objective, 3))


def test_half_precision_steps_are_judged_in_full():
    point, objective = coupled()
    assert objective(refine(point, objective, 30, half=True)) < objective(point.round())
