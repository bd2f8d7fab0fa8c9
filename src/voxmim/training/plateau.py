"""When a training is done: the last quarter of its steps raised the best validation score by less than 0.005.

The learning rate falls to 0 over the steps, which flattens every curve: a longer schedule may still end higher.
"""

from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.005  # of the score: less is no gain
TAIL = 0.25  # fraction of the steps in which there must be no gain
_ENOUGH = 3  # validations, to say anything


@dataclass(frozen=True)
class Plateau:
    """Where a validation curve ends."""

    best: float  # of the curve, whose weights are kept
    step: float  # the first step within `TOLERANCE` of it
    done: bool  # no gain in the last quarter of the steps


def plateau(steps: np.ndarray, curve: np.ndarray) -> Plateau:
    """The plateau of a validation curve, both (T,); higher is better."""
    best = float(curve.max())
    step = float(steps[np.argmax(curve >= best - TOLERANCE)])
    return Plateau(best, step, step <= (1 - TAIL) * float(steps[-1]))


def in_words(steps: np.ndarray, curve: np.ndarray, score: str) -> str:
    """Whether a training is done, and what to do if it is not; empty after few validations."""
    if len(steps) < _ENOUGH:
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
