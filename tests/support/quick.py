"""Files whose tests are a smoke test of every package, in less than a minute: pytest -m quick."""

QUICK = {
    "affinity": ("bootstrap", "matching", "name_match", "record"),
    "calibration": ("runs",),
    "demo": ("demo", "phantoms"),
    "entry_points": ("bad_input_options",),
    "evaluation": ("arms", "comparison", "statistics"),
    "nnunet": ("plans", "training_log"),
    "overlap": ("cache",),
    "planning": ("decide", "gain", "paths", "problem"),
    "report": ("figures", "plan", "words"),
    "slurm": ("queue", "script"),
    "tasks": ("alignment", "label_choice", "signature"),
    "trainers": ("schedule", "shim"),
    "training": ("command", "decide"),
    "transfer": ("checkpoints", "correspondence"),
    "tests": ("docs", "errors", "packaging", "storage"),
}
"""Folder -> test files without test_ and .py."""
