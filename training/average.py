"""Average a trained target with the one that its training went on from.

    python -m training.average pair/averaged pair/target-fp32 ../third/engine/assets/target --share 0.4

A run that starts anew with a high learning rate ends on another side of the same valley: a point between both ends is
lower than either (Izmailov et al. 2018, arXiv 1803.05407; Wortsman et al. 2022, arXiv 2203.05482). AWQ folders count
with the weights that they stand for.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from training.checkpoints import plain_tensors
from training.common import TrainingError, progress


def average(later: Path, earlier: Path, share: float) -> dict[str, Tensor]:
    """Return ``share`` of the earlier folder's weights plus the rest of the later's, in the later's types."""
    ours, theirs = plain_tensors(later), plain_tensors(earlier)
    if {name: tensor.shape for name, tensor in ours.items()} != {name: tensor.shape for name, tensor in theirs.items()}:
        raise TrainingError(
            f"{later} and {earlier} are not of one shape: only generations of one model can be averaged"
        )
    types = {name: tensor.dtype for name, tensor in load_file(later / "model.safetensors").items()}
    if set(types) != set(ours):
        raise TrainingError(f"{later} is quantised: average first, then quantise")
    return {name: ((1 - share) * ours[name] + share * theirs[name]).to(types[name]) for name in ours}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.average", description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("later", type=Path, help="folder of training.export")
    parser.add_argument("earlier", type=Path, help="folder that the training started from, AWQ or not")
    parser.add_argument("--share", type=float, default=0.4, help="of the earlier one (default: %(default)s)")
    a = parser.parse_args()
    try:
        if not 0 <= a.share <= 1:
            raise TrainingError(f"--share is {a.share}: it must be from 0 to 1")
        tensors = average(a.later, a.earlier, a.share)
    except (TrainingError, OSError) as error:
        progress(f"error: {error}")
        return 1
    shutil.copytree(a.later, a.output, dirs_exist_ok=True)
    save_file(tensors, a.output / "model.safetensors", metadata={"format": "pt"})
    progress(f"{a.output}: {1 - a.share:.0%} of {a.later}, {a.share:.0%} of {a.earlier}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
