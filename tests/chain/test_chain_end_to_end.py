"""Real chains: nnU-Net trains, small networks on small data."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.chain

SMALL = ("-device", "cpu", "-epochs", "2", "-source_epochs", "2", "-iterations", "2", "-seed", "0", "-np", "1")


def test_smoke(world, command):
    """A chain of two sources and a target ends, and the same command again says that nothing is left."""
    import time

    t = time.time()
    outcome = command("train", "901", "3d_fullres", "0", "-s", "902", "903", *SMALL)
    print(outcome.err, outcome.out, time.time() - t)
    assert outcome.status == 0
