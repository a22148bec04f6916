"""The HTML report of one run or several: one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dure.twin.comparison import compare
from dure.twin.metrics import RunMetrics, measure
from dure.twin.report.page import render
from dure.twin.result import RunResult
from dure.whole_file import whole_file


def write_report(
    results: Sequence[RunResult], path: Path | str, title: str, trials: Sequence[RunMetrics] | None = None
) -> Path:
    """Write one self-contained HTML file; the file appears whole or not at all.

    Parameters
    ----------
    results : sequence of RunResult, at least one
        Runs to draw. Of runs of one name (several seeds) the first is drawn in detail.
    path : Path or str
        The HTML file; an existing one is replaced.
    title : str
        Heading of the page: what was asked.
    trials : sequence of RunMetrics, optional
        Numbers of every run that the comparison's intervals are taken over, for runs too large to keep whole;
        without it, those of ``results``. Each (name, seed) at most once.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no result, or a name has one seed twice.
    """
    if not results:
        raise ValueError("a report needs at least one result")
    metrics = [measure(result) for result in results]
    comparison = compare(metrics if trials is None else trials)
    first_of_name = {results[i].name: i for i in reversed(range(len(results)))}
    drawn = sorted(first_of_name.values())
    text = render([results[i] for i in drawn], [metrics[i] for i in drawn], comparison, title)
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return Path(path)
