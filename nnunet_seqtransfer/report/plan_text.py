"""A plan in words and tables for the terminal."""

from __future__ import annotations

from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.planning.verdict import percent
from nnunet_seqtransfer.report.tables import text_table


def plan_text(plan: SequencePlan) -> str:
    """The decision in words, then the candidates."""
    header = ["", "path", "cost", "start", "hops", "GPU hours", *(["wins"] if plan.resamples else [])]
    chosen = (*plan.sources, plan.target)
    shares = {win.path: win.share for win in plan.wins}
    rows = [
        [
            _mark(entry, chosen),
            *_parts(entry),
            *([percent(shares.get(entry.path, 0.0))] if plan.resamples else []),
        ]
        for entry in plan.candidates
    ]
    ruled_out = any(entry.ruled_out for entry in plan.candidates)
    notes = ["", "x ruled out, listed for comparison"] if ruled_out else []
    return "\n".join([*plan.explanation, "", text_table(header, rows), *notes])


def _mark(entry: CandidatePath, chosen: tuple[str, ...]) -> str:
    if entry.path == chosen:
        return ">"
    return "x" if entry.ruled_out else ""


def _parts(entry: CandidatePath) -> list[str]:
    hops = " + ".join(_number(cost) for cost in entry.hop_costs) or "-"
    if entry.search_cost:
        hops += f" + search {_number(entry.search_cost)}"
    path = " -> ".join(entry.path) if len(entry.path) > 1 else f"{entry.path[0]} (scratch)"
    return [path, _number(entry.cost), _number(entry.start_cost), hops, f"{entry.gpu_hours:.1f}"]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
