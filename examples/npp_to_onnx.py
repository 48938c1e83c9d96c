"""Export the shipped preprocessor to ONNX for one λ, and run it outside of torch.

pip install onnx onnxruntime onnxscript
python examples/npp_to_onnx.py npp.onnx
"""

import sys

import numpy as np
import onnxruntime
import torch

from vcm.nn.preprocessor import deployed, load_preprocessor
from vcm.weights import QA_NPP_BPG, shipped


def main(target: str, lmbda: float = 2.0, side: int = 256) -> None:
    network = deployed(load_preprocessor(shipped(QA_NPP_BPG)), lmbda)
    x = torch.rand(1, 3, side, side)
    torch.onnx.export(network, (x,), target, input_names=["x"], output_names=["filtered"], dynamo=True)
    (filtered,) = onnxruntime.InferenceSession(target).run(None, {"x": x.numpy()})
    difference = np.abs(filtered - network(x).detach().numpy()).max()
    print(f"{target}: largest difference from torch {difference:.2e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
