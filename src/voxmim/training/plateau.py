"""Whether a training is done: the last quarter of its steps raised the best validation score by less than 0.005.

Every curve flattens as the learning rate falls to 0, so a longer schedule may still end higher.
"""

from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.005  # a smaller rise of the score is no gain
TAIL = 0.25  # fraction of the steps in which there must be no gain
_MIN_VALIDATIONS = 3


@dataclass(frozen=True)
class Plateau:
    """The plateau of a validation curve."""

    best: float  # the maximum of the curve
    step: float  # the first step within `TOLERANCE` of it
    done: bool  # no gain in the last quarter of the steps


def plateau(steps: np.ndarray, curve: np.ndarray) -> Plateau:
    """The plateau of a validation curve (T,) at steps (T,); higher is better."""
    best = float(curve.max())
    step = float(steps[np.argmax(curve >= best - TOLERANCE)])
    return Plateau(best, step, step <= (1 - TAIL) * float(steps[-1]))


def in_words(steps: np.ndarray, curve: np.ndarray, score: str) -> str:
    """A sentence on whether a training is done; empty after few validations."""
    if len(steps) < _MIN_VALIDATIONS:
        return ""
    if plateau(steps, curve).done:
        return (
            f"The last quarter of the steps raised the {score} by less than {TOLERANCE}: this training is done. "
            f"A longer one, such as with --steps {2 * int(steps[-1])}, may end higher: the learning rate is 0 now."
        )
    before = float(curve[steps <= (1 - TAIL) * steps[-1]].max(initial=0))
    return (
        f"The last quarter of the steps raised the {score} by {curve.max() - before:.3f}: a longer training may end "
        f"higher, such as one with --steps {2 * int(steps[-1])}."
    )
