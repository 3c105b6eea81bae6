"""What an NVIDIA card's libraries do, asked by the harness line by line in JSON.

Writes a line when it is ready, then answers each line of stdin with one line:
  {"do": "roof"}                                 rates of copies and matrix products, by cuBLAS
  {"do": "open", "name": NAME, "spec": {...}}    builds the work of bench/cases/types.ts for one implementation
  {"do": "run", "name": NAME, "count": N}        milliseconds a run, in groups of runs that are in flight together
  {"do": "release"}                              forgets all that is open

Names: "torch eager", "torch.compile", "cublaslt", "sdpa", "plain cuda". Anything that fails is {"error": reason}.
Wall-clock time of several runs in flight, as the harness times itself; nothing is left out of either.
"""

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import networks

# As in bench/subject.ts.
IN_FLIGHT = 16
TYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "i64": torch.int64,
}
HERE = Path(__file__).resolve().parent

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.benchmark = True
torch.set_grad_enabled(False)


class NotOffered(Exception):
    """This implementation has no such work."""


def normal(shape, dtype):
    if dtype == torch.int8:
        return torch.randint(-100, 101, shape, dtype=dtype, device="cuda")
    return torch.randn(shape, device="cuda").to(dtype)


def sets_of(make, cold):
    """Inputs to take in turn: more than three times the L2 where work is bound by memory."""
    first = make()
    if not cold:
        return [first]
    size = sum(x.numel() * x.element_size() for x in first)
    beyond = 3 * torch.cuda.get_device_properties(0).L2_cache_size
    return [first] + [make() for _ in range(min(63, -(-beyond // size)))]


# --- the work, by kind: each gives a function and what makes one set of its arguments -------------------------------


def gemm(spec, name):
    m, n, k, batch = spec["m"], spec["n"], spec["k"], spec["batch"]
    dtype = TYPES[spec["dtype"]]
    lead = [batch] if batch > 1 else []
    right = [n, k] if spec["transposed"] else [k, n]

    def make():
        return normal(lead + [m, k], dtype), normal(lead + right, dtype)

    if name == "plain cuda":
        if dtype != torch.float32 or batch > 1 or spec["transposed"]:
            raise NotOffered("the plain kernel takes two f32 matrices in row-major order")
        plain = baselines()

        def run(a, b):
            c = torch.empty(m, n, device="cuda")
            check(plain.plain_gemm(m, n, k, pointer(a), pointer(b), pointer(c), stream()))
            return c

        return run, make
    if dtype == torch.int8:
        if batch > 1:
            raise NotOffered("torch._int_mm takes two matrices")
        return (lambda a, b: torch._int_mm(a, b.t() if spec["transposed"] else b)), make
    torch.backends.cuda.preferred_blas_library("cublaslt")
    if spec["transposed"]:
        return (lambda a, b: torch.matmul(a, b.transpose(-1, -2))), make
    return torch.matmul, make


def conv(spec, _name):
    dims = len(spec["input"]) - 2
    function = getattr(F, f"conv{'_transpose' if spec['transposed'] else ''}{dims}d")
    weight = normal(spec["weight"], TYPES[spec["dtype"]])
    outputs = spec["weight"][1] * spec["groups"] if spec["transposed"] else spec["weight"][0]
    bias = normal([outputs], TYPES[spec["dtype"]])
    options = {key: spec[key] for key in ("stride", "dilation", "groups")}
    options["padding"] = int(spec["padding"])
    layout = torch.channels_last if dims == 2 else torch.contiguous_format
    weight = weight.contiguous(memory_format=layout)

    def make():
        x = normal(spec["input"], TYPES[spec["dtype"]])
        return (x.contiguous(memory_format=layout),)

    return (lambda x: F.relu(function(x, weight, bias, **options))), make


def rows(spec, name):
    count, columns, dtype = spec["rows"], spec["columns"], TYPES[spec["dtype"]]
    scale, bias = normal([columns], dtype), normal([columns], dtype)
    kinds = {
        "softmax": lambda x: F.softmax(x, -1),
        "logsoftmax": lambda x: F.log_softmax(x, -1),
        "layernorm": lambda x: F.layer_norm(x, [columns], scale, bias),
        "rmsnorm": lambda x: F.rms_norm(x, [columns], scale),
        "sum": lambda x: x.sum(-1),
        "max": lambda x: x.amax(-1),
        "argmax": lambda x: x.argmax(-1),
        "cumsum": lambda x: x.cumsum(-1),
        "columnsum": lambda x: x.sum(0),
    }
    if name != "plain cuda":
        return kinds[spec["kind"]], lambda: (normal([count, columns], dtype),)
    if spec["kind"] != "softmax" or dtype != torch.float32:
        raise NotOffered("of these there is a plain kernel for softmax in f32 only")
    plain = baselines()

    def run(x):
        y = torch.empty_like(x)
        check(plain.plain_softmax(count, columns, pointer(x), pointer(y), stream()))
        return y

    return run, lambda: (normal([count, columns], dtype),)


def elementwise(spec, name):
    shape, dtype = spec["shape"], TYPES[spec["dtype"]]
    bias = normal([shape[1]], dtype)
    kinds = {
        "saxpy": (2, lambda x, y: x * 1.5 + y),
        "gelu": (1, F.gelu),
        "chain": (2, lambda x, y: torch.sigmoid(x * y + 0.5) * torch.relu(y.abs() - x * 0.25)),
        "bias": (1, lambda x: F.relu(x + bias)),
        "transpose": (1, lambda x: x.t().contiguous()),
        "concat": (2, lambda x, y: torch.cat([x, y], 1)),
        "widen": (1, lambda x: x.to(torch.float16).to(torch.float32)),
    }
    inputs, function = kinds[spec["kind"]]

    def make():
        return tuple(normal(shape, dtype) for _ in range(inputs))

    if name != "plain cuda":
        return function, make
    if spec["kind"] != "saxpy" or dtype != torch.float32:
        raise NotOffered("of these there is a plain kernel for saxpy in f32 only")
    plain = baselines()

    def run(x, y):
        result = torch.empty_like(x)
        address = pointer(x), pointer(y), pointer(result)
        check(plain.plain_saxpy(ctypes.c_longlong(x.numel()), ctypes.c_float(1.5), *address, stream()))
        return result

    return run, make


def attention(spec, name):
    dtype = TYPES[spec["dtype"]]
    lead, width, causal = [spec["batch"], spec["heads"]], spec["width"], spec["causal"]
    queries, keys = spec["queries"], spec["keys"]

    def make():
        return tuple(normal(lead + [length, width], dtype) for length in (queries, keys, keys))

    if name == "sdpa":
        if causal and queries != keys:
            raise NotOffered("SDPA aligns causal masks to the other corner where lengths differ")
        return (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)), make
    mask = torch.ones(queries, keys, dtype=torch.bool, device="cuda").tril(keys - queries).logical_not()

    def written_out(q, k, v):
        scores = q @ k.transpose(-1, -2) * width**-0.5
        return F.softmax(scores.masked_fill(mask, float("-inf")) if causal else scores, -1) @ v

    return written_out, make


def model(spec, _name):
    return networks.build(spec["model"])


KINDS = {
    "gemm": gemm,
    "conv": conv,
    "rows": rows,
    "map": elementwise,
    "attention": attention,
    "model": model,
}

# --- hand-written kernels ---------------------------------------------------------------------------------------------


def baselines():
    """baselines.cu as a library, compiled when it is first asked for and whenever its text has changed."""
    source = HERE / "baselines.cu"
    major, minor = torch.cuda.get_device_capability()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"tutti-baselines-{digest}-{major}{minor}.so"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        command = ["nvcc", "-O3", f"-arch=sm_{major}{minor}", "-Xcompiler", "-fPIC", "-shared"]
        subprocess.run([*command, str(source), "-o", str(unfinished)], check=True, capture_output=True)
        unfinished.rename(path)
    return ctypes.CDLL(str(path))


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def stream():
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


def check(code):
    if code != 0:
        raise RuntimeError(f"the launch failed with CUDA error {code}")


# --- timing -----------------------------------------------------------------------------------------------------------


def milliseconds(run, count):
    together = min(IN_FLIGHT, count)
    times = []
    for _ in range(-(-count // together)):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(together):
            run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start) / together)
    return times


def median(values):
    return sorted(values)[len(values) // 2]


def roof():
    count = 1 << 30
    source = torch.randn(count // 4, device="cuda")
    target = torch.empty_like(source)
    copy = median(milliseconds(lambda: target.copy_(source), 160))
    rates = {}
    for key, size in (("bf16", 8192), ("f16", 8192), ("f32", 8192), ("i8", 8192)):
        dtype = TYPES[key]
        a, b = normal([size, size], dtype), normal([size, size], dtype).t()
        product = torch._int_mm if dtype == torch.int8 else torch.matmul
        time_ms = median(milliseconds(lambda: product(a, b), 64))
        rates[key] = 2e-6 * size**3 / time_ms
    return {"copyGBs": 2e-6 * count / copy, "gflops": rates}


# --- the conversation -------------------------------------------------------------------------------------------------

opened = {}


def open_work(name, spec, cold):
    try:
        function, make = KINDS[spec["op"]](spec, name)
    except NotOffered as reason:
        return {"implementations": [], "versions": {}, "skipped": {name: str(reason)}}
    if name == "torch.compile":
        torch._dynamo.reset()
        function = torch.compile(function, dynamic=False)
    sets = sets_of(make, cold)
    turn = 0

    def run():
        nonlocal turn
        turn += 1
        return function(*sets[turn % len(sets)])

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    opened[name] = run
    return {"implementations": [name], "versions": {name: version(name)}, "skipped": {}}


def version(name):
    if name == "plain cuda":
        return f"CUDA {torch.version.cuda}"
    return torch.__version__


def answer(question):
    match question["do"]:
        case "roof":
            return roof()
        case "open":
            return open_work(question["name"], question["spec"], question.get("cold", False))
        case "run":
            return milliseconds(opened[question["name"]], question["count"])
        case "release":
            opened.clear()
            torch.cuda.empty_cache()
            return {}
        case other:
            raise ValueError(f"cannot {other}")


def main():
    # Whatever libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")
    print(json.dumps({"ready": torch.cuda.get_device_name()}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 — the harness says why a peer is missing
            reply = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
