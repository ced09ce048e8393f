"""Every error a user can meet: what, where, which numbers, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class PrunusError(Exception):
    """A fault that its reader can mend. ``exit_code`` is what the command line returns."""

    exit_code = 1


class RecipeError(PrunusError):
    """One or more faults in what was asked for; all of them are listed at once."""

    exit_code = 3

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        head = "The recipe has a fault:" if len(self.faults) == 1 else f"The recipe has {len(self.faults)} faults:"
        super().__init__("\n".join([head, *(f"  - {fault}" for fault in self.faults)]))


class CheckpointError(PrunusError):
    """The model cannot be read as it stands on disk."""

    exit_code = 4


class UnsupportedModelError(PrunusError):
    """The model has a part that prunus does not know how to run or prune."""

    exit_code = 4


class CalibrationError(PrunusError):
    """The text is missing, unreadable or too short for what was asked."""

    exit_code = 5


class DataError(PrunusError):
    """Images, labels or windows to train on are missing, damaged, or not what they are said to be."""

    exit_code = 5


class SingularGramError(PrunusError):
    """A Gram matrix has no Cholesky factor, even with more damping."""

    exit_code = 6


class NumericalError(PrunusError):
    """NaN or Inf in weights, activations or results."""

    exit_code = 6


class OutputError(PrunusError):
    """The output cannot be written, or belongs to another run."""

    exit_code = 7


class ResourceError(PrunusError):
    """The machine has not the memory that the run will need."""

    exit_code = 9


class ProofError(PrunusError):
    """The finished run failed one of its own checks; nothing was given its final name."""

    exit_code = 8


class MissingLibraryError(PrunusError):
    """A library that only some choices need is not installed."""

    exit_code = 10
