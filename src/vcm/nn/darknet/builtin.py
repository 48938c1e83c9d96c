"""Generated cfg of YOLOv3 and YOLOv3-SPP for any number of classes."""

from __future__ import annotations

from vcm.errors import ArgumentError

_ANCHORS = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"


def yolov3_cfg(num_classes: int = 80, *, spp: bool = False) -> str:
    """Return the Darknet cfg of YOLOv3 (107 layers) or YOLOv3-SPP (114), numbered as in the published files.

    ```
    image ─► Darknet-53 ─┬─ stride 32 ─► [SPP] ─► convolutions ─┬─► head of large boxes
                         │                                  up ◄┘
                         ├─ stride 16 (layer 61) ──► concat ─► convolutions ─┬─► head of middle ones
                         │                                               up ◄┘
                         └─ stride 8 (layer 36) ───► concat ─► convolutions ───► head of small ones
    ```

    Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv 1804.02767. Spatial pyramid pooling:
    He et al., arXiv 1406.4729.

    Args:
        num_classes: Number of classes.
        spp: Whether to pool over 5, 9 and 13 pixels before the first head; the input then has 608 pixels a
            side, else 416.

    Raises:
        ArgumentError: If there is no class.
    """
    if num_classes < 1:
        raise ArgumentError("num_classes", expected="at least 1", got=num_classes)
    size = 608 if spp else 416
    parts = [f"[net]\nwidth={size}\nheight={size}\nchannels=3", _conv(32, 3)]
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        parts.append(_conv(filters, 3, stride=2))
        for _ in range(blocks):
            parts += [_conv(filters // 2, 1), _conv(filters, 3), "[shortcut]\nfrom=-3\nactivation=linear"]
    for number, (filters, lateral) in enumerate(((512, None), (256, 61), (128, 36))):
        if lateral is not None:
            up = "[upsample]\nstride=2"
            parts += ["[route]\nlayers=-4", _conv(filters, 1), up, f"[route]\nlayers=-1,{lateral}"]
        parts += [_conv(filters, 1), _conv(2 * filters, 3), _conv(filters, 1)]
        if spp and lateral is None:
            parts += _spp(filters)
        parts += [_conv(2 * filters, 3), _conv(filters, 1), _conv(2 * filters, 3)]
        parts.append(
            f"[convolutional]\nsize=1\nstride=1\npad=1\nfilters={3 * (5 + num_classes)}\nactivation=linear"
        )
        mask = ",".join(str(anchor) for anchor in range(6 - 3 * number, 9 - 3 * number))
        parts.append(
            f"[yolo]\nmask={mask}\nanchors={_ANCHORS}\nclasses={num_classes}\nnum=9\nignore_thresh=.7\ntruth_thresh=1"
        )
    return "\n\n".join(parts) + "\n"


def _conv(filters: int, size: int, stride: int = 1) -> str:
    shape = f"filters={filters}\nsize={size}\nstride={stride}"
    return f"[convolutional]\nbatch_normalize=1\n{shape}\npad=1\nactivation=leaky"


def _spp(filters: int) -> list[str]:
    pools = [f"[maxpool]\nstride=1\nsize={size}" for size in (5, 9, 13)]
    routes = [f"[route]\nlayers={layers}" for layers in ("-2", "-4", "-1,-3,-5,-6")]
    return [part for pair in zip(pools, routes, strict=True) for part in pair] + [_conv(filters, 1)]
