"""The errors that conceptprune raises on purpose, grouped by who can fix them.

A `UserError` is fixed by changing the input (command-line exit code 2). The others mean that a
computation or the store failed although the input was good (exit code 1).
"""


class UserError(Exception):
    """Bad input; the message is one clear paragraph that says what to change."""


class ManifestError(UserError):
    """A manifest that cannot be used; the message lists every problem found in it."""


class ModelMismatchError(UserError):
    """A mask or artifact offered to a model it was not made for."""


class EmptyMaskError(UserError):
    """The settings select no mask entry at all, so nothing would be erased."""


class NoEffectError(UserError):
    """A mask that does not change any image."""


class NumericalError(RuntimeError):
    """A NaN or an overflow in an activation or a statistic; the message says where."""


class ClusterError(RuntimeError):
    """The cluster that should run the units cannot be reached."""


class StoreError(RuntimeError):
    """The store's content differs from what was committed, or it cannot be read or written."""


class NondeterminismError(StoreError):
    """A unit's result differs from its committed one; the message names both digests."""
