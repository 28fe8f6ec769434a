"""The source graph of a made-up archive with the shape of the published study: 7 sites x 4 channels x 3 labels.

    python docs/study/graph_of_84_tasks.py -o graph_84.svg

Distances are drawn by a seed: a task is a point that depends on its channel most, then on its label, then on its site.
No image is involved. It shows what the picture of `nnUNetv2_seq_plan` looks like with 84 sources.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nnunet_seqtransfer.planning.decide import decide
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.planning.measured import shipped_table
from nnunet_seqtransfer.planning.paths import Request
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.report.figures import save
from nnunet_seqtransfer.report.graph_figure import draw_graph

CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
LABELS = ("WholeTumour", "TumourCore", "Enhancing")
SITES = 7


def archive(seed: int) -> SequenceProblem:
    """84 sources and a target of 6 cases from an eighth site."""
    rng = np.random.default_rng(seed)
    of_channel, of_label = rng.normal(0, 1, (4, 8)), rng.normal(0, 0.8, (3, 8))
    of_site = rng.normal(0, 0.35, (SITES + 1, 8))
    names, channels, labels, counts, points = [], [], [], [], []
    for site in range(SITES):
        cases = int(rng.integers(5, 400))
        for i, channel in enumerate(CHANNELS):
            for j, label in enumerate(LABELS):
                names.append(f"Dataset{101 + len(names)}_C{site + 1}{channel}{label}")
                channels.append((channel,))
                labels.append((label,))
                counts.append(cases)
                points.append(of_channel[i] + of_label[j] + of_site[site] + rng.normal(0, 0.1, 8))
    names.append("Dataset004_NewSiteFLAIR")
    channels.append(("FLAIR",))
    labels.append(("TumourCore",))
    counts.append(6)
    points.append(of_channel[3] + of_label[1] + 2 * of_site[-1] + rng.normal(0, 0.1, 8))
    distances = np.linalg.norm(np.asarray(points)[:, None] - np.asarray(points), axis=-1) / 4
    return SequenceProblem.checked(names, distances, len(names) - 1, counts, channels=channels, labels=labels)


def main() -> None:
    """Draw the graph with the communities and the path of the published strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, required=True, help="SVG to write; a PDF is written next to it")
    parser.add_argument("-seed", type=int, default=0)
    options = parser.parse_args()
    problem = archive(options.seed)
    model = GainModel(shipped_table().rows, "", problem.evidence[:-1])
    decision = decide(Request(problem, model), "published")
    save(draw_graph(problem, decision.chosen.path, decision.communities), options.o)


if __name__ == "__main__":
    main()
