"""The errors conceptprune raises on purpose, sorted by who can put them right.

A `UserError` is put right by changing the input (command-line exit code 2); the others mean
that a computation or the store went wrong although the input was good (exit code 1).
"""


class UserError(Exception):
    """Bad input; the message is one clear paragraph that says what to change."""


class ManifestError(UserError):
    """A manifest that cannot be used; the message lists every problem found in it."""


class ModelMismatchError(UserError):
    """A mask or artifact offered to a model it was not made for."""


class EmptyMaskError(UserError):
    """Settings under which a layer would get no mask entry at all, so nothing would be erased."""


class NoEffectError(UserError):
    """A mask that changes no image at all."""


class NumericalError(RuntimeError):
    """A NaN or an overflow in an activation or a statistic; the message says where."""


class ClusterError(RuntimeError):
    """The cluster that is to run the units cannot be reached."""


class StoreError(RuntimeError):
    """The store holds something else than what was committed, or cannot be read or written."""


class NondeterminismError(StoreError):
    """A unit came out other than it was committed before; the message names both digests."""
