"""From a path to trained models: aligned plans, preprocessing, weight hand-off, one stage, the whole run."""
