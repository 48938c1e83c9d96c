"""Errors of feature maps and divergences of raw task outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vcm.nn.darknet import HeadSpec

_BOX_WEIGHT = 15.0
"""Weight of squared box errors, in cells and log scales; divergences in nats have weight 1."""


def class_divergence(found: Tensor, true: Tensor) -> Tensor:
    """Compute KL(p ‖ q) of class probabilities per image, in nats; differentiable.

    Args:
        found: Logits of q, (N, C).
        true: Logits of p, (N, C).

    Returns:
        (N,), 0 where the logits are equal.
    """
    p = true.float().log_softmax(dim=1)
    return F.kl_div(found.float().log_softmax(dim=1), p, reduction="none", log_target=True).sum(dim=1)


def yolo_divergence(found: Sequence[Tensor], true: Sequence[Tensor], heads: Sequence[HeadSpec]) -> Tensor:
    """Compute the divergence of raw YOLO head outputs per expected object; differentiable.

    ```
    Σ KL(p_o ‖ q_o) + Σ p_o · [Σ_c KL(p_c ‖ q_c) + w · (‖σ(t_xy) − σ(t̂_xy)‖² + ‖t_wh − t̂_wh‖²)]
    ─────────────────────────────────────────────────────────────────────────────────────────────────
                                              1 + Σ p_o
    ```

    Sums are over the anchors of all cells and heads; objectness and classes are Bernoulli variables, as YOLO
    (v3 on) trains them; w = 15.

    Args:
        found: Raw outputs of each head, (N, A·(5+C), h, w).
        true: Raw outputs on the original images, of the same shapes.
        heads: Specifications of the heads.

    Returns:
        (N,), 0 where the outputs are equal.
    """
    total = expected = torch.zeros(len(true[0]), device=true[0].device)
    for raw, target, head in zip(found, true, heads, strict=True):
        q, p = (_by_anchor(x, len(head.mask)) for x in (raw, target))
        objectness = p[:, :, 4].sigmoid()
        boxes = (q[:, :, :2].sigmoid() - p[:, :, :2].sigmoid()).square().sum(dim=2)
        boxes = boxes + (q[:, :, 2:4] - p[:, :, 2:4]).square().sum(dim=2)
        classes = _bernoulli_divergence(q[:, :, 5:], p[:, :, 5:]).sum(dim=2)
        here = _bernoulli_divergence(q[:, :, 4], p[:, :, 4]) + objectness * (classes + _BOX_WEIGHT * boxes)
        total = total + here.flatten(1).sum(dim=1)
        expected = expected + objectness.flatten(1).sum(dim=1)
    return total / (1 + expected)


def dense_divergence(
    found: Tensor, true: Tensor, found_boxes: Tensor, true_boxes: Tensor, objectness: Tensor
) -> Tensor:
    """Compute the divergence of a dense detection head's raw outputs per expected object; differentiable.

    ```
    Σ_k [Σ_c KL(p_c ‖ q_c) + p_k · w · ‖t − t̂‖²] / (1 + Σ_k p_k)
    ```

    Sums are over K anchors; classes are Bernoulli variables, as focal loss trains them; w = 15.

    Args:
        found: Logits of q, (N, K, C).
        true: Logits of p, (N, K, C), on the original images.
        found_boxes: Box parameters, (N, K, 4), relative to the size of the anchor or box.
        true_boxes: Box parameters on the original images, (N, K, 4).
        objectness: p_k, probability of an object at each anchor in the original, (N, K), in [0, 1].

    Returns:
        (N,), 0 where the outputs are equal.
    """
    classes = _bernoulli_divergence(found.float(), true.float()).sum(dim=2)
    boxes = (found_boxes.float() - true_boxes.float()).square().sum(dim=2)
    here = classes + objectness.float() * _BOX_WEIGHT * boxes
    return here.sum(dim=1) / (1 + objectness.float().sum(dim=1))


def _by_anchor(raw: Tensor, anchors: int) -> Tensor:
    """Reshape (N, A·(5+C), h, w) to (N, A, 5+C, h, w), float32."""
    return raw.float().reshape(len(raw), anchors, -1, *raw.shape[-2:])


def _bernoulli_divergence(found: Tensor, true: Tensor) -> Tensor:
    """Compute KL(p ‖ q) elementwise, from logits."""
    p = true.sigmoid()
    cross = F.binary_cross_entropy_with_logits(found, p, reduction="none")
    return cross - F.binary_cross_entropy_with_logits(true, p, reduction="none")


_SMALLEST_POWER = 1e-6


def relative_errors(found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
    """Compute mean((f̂ − f)²) / mean(f²) per image, averaged over feature maps; differentiable.

    Every feature map and every image has the same weight, whatever its scale.

    Args:
        found: Feature maps f̂ by name, (N, C, h, w).
        true: Feature maps f of the same names and shapes.

    Returns:
        (N,): 0 for equal feature maps, 1 if f̂ is zero.
    """
    errors = []
    for name, f in true.items():
        error = (found[name] - f).pow(2).flatten(1).mean(dim=1)
        errors.append(error / f.pow(2).flatten(1).mean(dim=1).clamp(min=_SMALLEST_POWER))
    return torch.stack(errors).mean(dim=0)
