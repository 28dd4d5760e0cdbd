"""The first sentence of a report: the result for all concepts, in plain words."""

from collections.abc import Iterator, Sequence

from ..console.names import some
from .accuracy import Rate
from .values import CombinedReport, ConceptReport, ReportData

NOUNS = {"style": ("artist", "artists"), "object": ("object", "objects")}


def verdict(report: ReportData) -> str:
    """One sentence: how many concepts are erased, how many are still recognised, and the
    exceptions.

    A concept counts as erased if a scorer saw it before and looked for it afterwards.
    """
    return "; ".join(_parts(report)) + "."


def _parts(report: ReportData) -> Iterator[str]:
    concepts = report.concepts
    erased = [each for each in concepts if each.flag in ("", "still recognised")]
    kinds = {each.kind for each in concepts}
    one, many = NOUNS.get("".join(kinds) if len(kinds) == 1 else "", ("concept", "concepts"))
    if erased:
        # A concept that is still seen is not erased, whatever was pruned.
        how = "pruned" if any(each.flag for each in erased) else "erased"
        yield f"{len(erased)} {one if len(erased) == 1 else many} {how}"
        yield _left(erased)
        others = [each.accuracy.retained.after for each in erased if each.accuracy]
        kept = _together([rate for rate in others if rate])
        if kept:
            yield f"others are recognised in {100 * kept.share:.0f} % of {kept.n} images"
    for flag, what in (
        ("failed", "failed"),
        ("unfinished", "unfinished"),
        ("was never there", "never there"),
        ("not checked", "with a mask whose effect nobody has checked"),
    ):
        names = [each.name for each in concepts if each.flag == flag]
        if names:
            yield f"{len(names)} {what} ({some(names)})"
    if report.combined:
        yield from _reworded(report.combined)
    if report.lacking:
        yield f"the combined checkpoint is without {some(report.lacking)}"


def _reworded(combined: CombinedReport) -> Iterator[str]:
    """What is left of all of them in the one edit that the run is for, where one was looked at."""
    erased = combined.accuracy.erased.after if combined.accuracy else None
    if combined.how != "reworded" or combined.accuracy is None or erased is None:
        return
    others = combined.accuracy.retained.after
    told = f"with all reworded at once, {erased.hits} of {erased.n} images still show one of them"
    if others:
        told += f", and others are recognised in {100 * others.share:.0f} % of {others.n}"
    yield told


def _left(erased: Sequence[ConceptReport]) -> str:
    """How many images of their own prompts still show them."""
    together = _together([each.accuracy.erased.after for each in erased if each.accuracy])
    number = together.n if together else 0
    seen = [each.name for each in erased if each.flag == "still recognised"]
    if not seen:
        return f"none is recognised any more in {number} images"
    hits = together.hits if together else 0
    verb = "is" if len(seen) == 1 else "are"
    return f"{len(seen)} {verb} still recognised, in {hits} of {number} images ({some(seen)})"


def _together(rates: Sequence[Rate | None]) -> Rate | None:
    known = [rate for rate in rates if rate]
    if not known:
        return None
    return Rate(hits=sum(rate.hits for rate in known), n=sum(rate.n for rate in known))
