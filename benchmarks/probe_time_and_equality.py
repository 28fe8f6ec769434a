"""Time, memory and zero-shot Dice of `nnUNetv2_seq_affinity --probe`, beside nnU-Net's own prediction and evaluation.

    python benchmarks/probe_time_and_equality.py -t 4 -s 21 23 [-cases 6] [-device cpu]

Needs nnU-Net's variables, a preprocessed target with raw images, and a finished model of each source in
nnUNet_results. Earlier probes of the target are deleted. nnU-Net predicts the same cases without mirroring; its label
values are replaced by those of the target as the probe matched them, and compute_metrics_on_folder scores the files.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from affinity_time_and_memory import watched
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from nnunet_seqtransfer.nnunet.datasets import foreground_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import dataset_name, scripts_folder
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.storage import read_json
from nnunet_seqtransfer.transfer.probe import Model, Probe, find_models, probes_path, read_probes


def processor_seconds() -> float:
    """Processor time of all commands so far, which other jobs on the machine hardly change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def dice_of_nnunet(target: str, model: Model, probe: Probe, device: str, work: Path) -> float:
    """Mean Dice over the target's labels by nnUNetv2_predict and nnU-Net's evaluation."""
    dataset_json = read_dataset_json(target)
    cases = {name: raw_cases(target, dataset_json)[name] for name in probe.cases}
    images, references, predictions = (work / name for name in ("images", "references", "predictions"))
    for folder in (images, references, predictions):
        folder.mkdir()
    for case in cases.values():
        for image in case.images:
            (images / image.name).symlink_to(image)
        (references / case.label.name).symlink_to(case.label)
    trainer, plans, configuration = model.folder.name.split("__")
    where = ["-i", str(images), "-o", str(predictions), "-d", model.dataset, "-tr", trainer, "-p", plans]
    how = ["-c", configuration, "-f", model.fold, "-device", device, "--disable_tta", "-npp", "1", "-nps", "1"]
    subprocess.run([str(scripts_folder() / "nnUNetv2_predict"), *where, *how], check=True, capture_output=True)
    ours = foreground_labels(dataset_json)
    theirs = foreground_labels(read_json(model.folder / "dataset.json", "the model's dataset.json", "restore it"))
    name = reader_writer(dataset_json, next(iter(cases.values())).images[0])
    reader = recursive_find_reader_writer_by_name(name)()
    for case in cases.values():
        file = predictions / case.label.name
        predicted, properties = reader.read_seg(str(file))
        renamed = np.zeros_like(predicted)
        for our, their in probe.labels.items():
            renamed[np.isin(predicted, theirs[their])] = ours[our][0]
        reader.write_seg(renamed[0].astype(np.uint8), str(file), properties)
    values = [ours[name][0] for name in probe.labels]
    endings = dataset_json["file_ending"]
    found = compute_metrics_on_folder(str(references), str(predictions), None, reader, endings, values, num_processes=1)
    return sum(found["mean"][value]["Dice"] for value in values) / len(ours)


def main() -> None:
    """Prints time and memory of the first and the second command, then both Dice of each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", required=True)
    parser.add_argument("-s", nargs="+", required=True)
    parser.add_argument("-cases", default="6")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--compare_only", action="store_true", help="compare probes that were made before")
    options = parser.parse_args()
    target, sources = dataset_name(options.t), [dataset_name(name) for name in options.s]
    command = [str(scripts_folder() / "nnUNetv2_seq_affinity"), "-t", target, "-s", *sources, "-np", "2"]
    probing = ["--probe", "-probe_cases", options.cases, "-device", options.device]
    runs = (("distances alone", []), ("with --probe", probing), ("again", probing))
    if not options.compare_only:
        probes_path(target).unlink(missing_ok=True)
    for title, more in () if options.compare_only else runs:
        before = processor_seconds()
        seconds, memory = watched([*command, *more])
        spent = processor_seconds() - before
        print(f"{title}: {seconds:.1f} s, {spent:.1f} s of the processors, {memory:.2f} GB", flush=True)
    models = find_models("3d_fullres", sources)
    for source, probe in read_probes(target).items():
        with tempfile.TemporaryDirectory() as work:
            stock = dice_of_nnunet(target, models[source], probe, options.device, Path(work))
        print(
            f"{source}: {len(probe.cases)} cases, {probe.labels}, probe {probe.dice!r}, nnU-Net {stock!r}", flush=True
        )


if __name__ == "__main__":
    main()
