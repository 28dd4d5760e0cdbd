"""What is freed stays in a process whose activations are on the CPU."""

import subprocess
import sys

import pytest

THREE_ACTIVATIONS_FIVE_TIMES = """
import resource, sys
import numpy as np
from conceptprune.manifest.schema import Compute
from conceptprune.store import Store
from pipelines.scheduling.workers import WorkerProcess
compute = Compute(gpus_per_actor=float(sys.argv[2]))
WorkerProcess.of(Store(sys.argv[1]), compute, job="job", run="run", form="plain").begin()
def call():
    return [np.ones(24 << 20, np.uint8) for _ in range(3)]
call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(("gpus", "keeps"), [(0, True), (0.5, False)])
def test_a_worker_keeps_its_freed_activations_unless_its_model_is_on_a_gpu(tmp_path, gpus, keeps):
    command = [sys.executable, "-c", THREE_ACTIVATIONS_FIVE_TIMES, str(tmp_path), str(gpus)]
    fresh_pages = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (fresh_pages < 200) is keeps
