"""The first answer of a fresh process: import, an LSTM 80 -> 128, one sequence of 100 steps; time and peak memory.

Each program runs in processes of its own, all programs in turn, and the least time counts. Kernels, byte code and the
disk's cache are warm; models that other libraries load are made beforehand.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastrnn.bench import workload
from fastrnn.bench.cases import Case
from fastrnn.commands import at_least
from fastrnn.commands.environment import THREADS, TUNING

X = "x = np.zeros((100, 1, 80), np.float32)\n"
OURS = "import numpy as np, fastrnn\n" + X + "fastrnn.LSTM(80, 128, backend={backend!r})(x)\n"
PROGRAMS = {  # what it is: (the package that it needs, the program)
    "import numpy": ("numpy", "import numpy\n"),
    "fastrnn (Cython)": ("fastrnn_ext", OURS.format(backend="cython")),
    "fastrnn (NumPy)": ("numpy", OURS.format(backend="numpy")),
    "import numba": ("numba", "import numba\n"),
    "fastrnn (Numba)": ("numba", OURS.format(backend="numba")),
    "LiteRT": ("ai_edge_litert", "import numpy as np\nfrom ai_edge_litert.interpreter import Interpreter\n" + X + (
        "i = Interpreter('model.tflite', num_threads=1)\ni.allocate_tensors()\n"
        "i.set_tensor(i.get_input_details()[0]['index'], x.reshape(i.get_input_details()[0]['shape']))\ni.invoke()\n")),
    "ONNX Runtime": ("onnxruntime", "import numpy as np, onnxruntime\n" + X + (
        "o = onnxruntime.SessionOptions()\no.intra_op_num_threads = 1\n"
        "onnxruntime.InferenceSession('model.onnx', o, providers=['CPUExecutionProvider']).run(None, {'X': x})\n")),
    "OpenVINO": ("openvino", "import numpy as np, openvino\n" + X + (
        "core = openvino.Core()\ncore.compile_model('model.onnx', 'CPU', {'INFERENCE_NUM_THREADS': 1})(x)\n")),
    "JAX (import alone)": ("jax", "import jax.numpy\n"),
    "PyTorch": ("torch", "import torch\ntorch.set_num_threads(1)\nwith torch.no_grad():\n"
                         "    torch.nn.LSTM(80, 128)(torch.zeros(100, 1, 80))\n"),
}  # fmt: skip

# At a program's end, on a line of its own: the most memory that it had, in KB. What the parent learns of it, ru_maxrss,
# begins with the parent's own: Linux keeps it over fork and exec.
PEAK = """
try:
    with open("/proc/self/status") as status:
        peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
except OSError:
    import resource, sys
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
print()
print(peak)
"""


def write_models(folder: Path) -> None:
    """The models that others load, for those that are here."""
    work = workload.make(Case("lstm", "forward", 100, 1, 80, 128))
    if importlib.util.find_spec("onnx"):
        from fastrnn.bench.contenders.onnx_model import model

        (folder / "model.onnx").write_bytes(model(work))
    if importlib.util.find_spec("flatbuffers"):
        from fastrnn.bench.contenders.litert_model import sequence_model

        (folder / "model.tflite").write_bytes(sequence_model(work))


def run(program: str, folder: Path) -> tuple[float, float]:
    """Seconds from start to end of a process, and its peak memory in MB."""
    dropped = (*TUNING, "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment.update(dict.fromkeys(THREADS, "1"))
    command = [sys.executable, "-c", program + PEAK]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        errors = done.stderr.strip().splitlines()
        raise RuntimeError(errors[-1] if errors else f"exit status {done.returncode}")
    return seconds, int(done.stdout.splitlines()[-1]) / 1024


def main(runs: int) -> None:
    """Measure all that are here, and print a table."""
    found: dict[str, list[tuple[float, float]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for number in range(runs + 1):  # the first one warms up
            for title, (package, program) in PROGRAMS.items():
                if title in failed or importlib.util.find_spec(package) is None:
                    continue
                try:
                    result = run(program, folder)
                except RuntimeError as error:
                    failed[title] = str(error)
                    continue
                if number:
                    found.setdefault(title, []).append(result)
    numpy = min(seconds for seconds, _ in found["import numpy"])
    print(f"| a fresh process, best of {runs} | ms | over `import numpy`, ms | peak memory, MB |")
    print("| --- | ---: | ---: | ---: |")
    for title, results in found.items():
        least = min(seconds for seconds, _ in results)
        memory = min(megabytes for _, megabytes in results)
        print(f"| {title} | {1e3 * least:.0f} | {1e3 * (least - numpy):.0f} | {memory:.0f} |")
    for title, reason in failed.items():
        print(f"{title}: {reason}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=at_least(1), default=10, metavar="RUNS", help="of each (default: 10)")
    main(parser.parse_args().runs)
