"""Figures of a proxy against its codec, against SciPy."""

import pytest
import torch
from scipy.stats import spearmanr

from vcm.metrics.fidelity import ProxyFidelity


def test_figures_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    metric, every, within = ProxyFidelity(), [[], []], []
    psnrs, errors = [], []
    for quality in (22, 33, 44):
        decoded, codec = (
            torch.rand(5, 3, 8, 8, generator=generator),
            torch.rand(5, 3, 8, 8, generator=generator),
        )
        rates = torch.rand(5, generator=generator) + 0.1
        proxied = rates * (0.5 + torch.rand(5, generator=generator))
        metric.update(decoded[:2], proxied[:2], codec[:2], rates[:2], quality)
        metric.update(decoded[2:], proxied[2:], codec[2:], rates[2:], quality)
        within.append(spearmanr(proxied, rates).statistic)
        every[0] += proxied.tolist()
        every[1] += rates.tolist()
        psnrs += (-10 * (decoded - codec).pow(2).mean(dim=(1, 2, 3)).log10()).tolist()
        errors += ((proxied - rates).abs() / rates).tolist()
    figures = metric.compute()
    assert float(figures["rate_rank"]) == pytest.approx(spearmanr(*every).statistic, abs=1e-5)
    assert float(figures["rate_rank_within"]) == pytest.approx(sum(within) / 3, abs=1e-5)
    assert float(figures["rate_error"]) == pytest.approx(sum(errors) / 15, abs=1e-5)
    assert float(figures["psnr"]) == pytest.approx(sum(psnrs) / 15, abs=1e-4)


def test_one_image_has_no_rank_within():
    metric = ProxyFidelity()
    for quality in (20, 30):
        metric.update(
            torch.zeros(1, 3, 2, 2),
            torch.tensor([1.0 / quality]),
            torch.ones(1, 3, 2, 2),
            torch.tensor([1.0 / quality]),
            quality,
        )
    figures = metric.compute()
    assert figures["rate_rank_within"].isnan()
    assert float(figures["rate_rank"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_images_nothing_is_known():
    assert all(figure.isnan() for figure in ProxyFidelity().compute().values())
