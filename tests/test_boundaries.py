"""The import directions are a contract, and `ablate --help` stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "duckdb", "plotly", "pandas", "typer", "optuna", "cleanfid", "sklearn", "torchvision")

PROBE = """
import importlib, pkgutil, sys
for room in {rooms!r}:
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    print(" ".join(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def loaded(code: str) -> set[str]:
    """Modules that a fresh process has loaded after `code`, which prints them."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "never",
    [
        {
            "ablate_core": {"ray", "duckdb", "pandas", "plotly", "typer", "optuna", "ablate", "ablate_reports"},
            "ablate.space": {"ray", "duckdb", "pandas", "plotly", "typer", "optuna", "ablate_reports"},
            "ablate.launch": {"plotly", "typer", "ablate_reports"},
        },
        {"ablate_reports": {"torch", "ray", "duckdb", "typer", "optuna", "ablate", "ablate_core"}},
        {"ablate.store": {"ray", "plotly", "typer", "optuna", "ablate_reports"}},
    ],
    ids=lambda never: "+".join(never),
)
def test_a_room_never_imports_what_belongs_to_another(never: dict[str, set[str]]) -> None:
    """Rooms of one process are imported one after another, each on those before it."""
    code = PROBE.format(rooms=list(never))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seen = dict(zip(never, map(str.split, done.stdout.splitlines()), strict=True))
    assert {room: set(seen[room]) & names for room, names in never.items()} == {room: set() for room in never}


def test_training_and_scoring_digits_import_neither_a_compiler_nor_a_kernel_nor_another_metric(tmp_path: Path) -> None:
    """torch's compiler takes a CPU second to import, with sympy and triton; torch imports it in every optimiser."""
    config = {
        "schedule": "linear",
        "objective": "meanflow",
        "architecture": {"name": "sit", "size": "tiny/2", "depth": 1, "width": 16, "heads": 2},
        "data": "digits",
        "train": {"steps": 1, "batch_size": 8},
        "eval": {"metric": "fd_digits", "samples": 8, "gallery": 0},
    }
    code = f"""
import sys
from pathlib import Path
import torch
from ablate_core.architectures.pairs import Pair, attention
from ablate_core.config import TrialConfig
from ablate_core.trainer import train
assert train(TrialConfig.model_validate({config!r}), Path({str(tmp_path)!r})).status == "done"
q = Pair(torch.randn(1, 2, 8, 4), torch.randn(1, 2, 8, 4))
with torch.no_grad():
    attention(q, q, q, fused=True)
print(*sys.modules)
"""
    compilers, metrics = (
        {"torch._dynamo", "torch._inductor", "sympy", "triton"},
        {"torchvision", "cleanfid", "sklearn", "pandas"},
    )
    assert loaded(code) & {*compilers, *metrics, "ablate_core.attention_kernel"} == set()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['ablate', '--help']\nfrom ablate.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(); print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = {name.partition(".")[0] for name in done.stdout.partition("LOADED")[2].split()}
    assert "run" in done.stdout
    assert modules & (set(HEAVY) - {"typer"}) == set()
    assert "rich" not in modules


def test_every_command_loads_nothing_heavy_for_its_help() -> None:
    from ablate.cli.app import app

    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert {"run", "plan", "report", "components", "show", "ls", "doctor", "schema"} <= set(names)
    code = (
        "import sys\nfrom ablate.cli.app import app\n"
        f"for name in {names!r}:\n"
        "    try:\n        app([name, '--help'])\n    except SystemExit:\n        pass\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = {name.partition(".")[0] for name in done.stdout.partition("LOADED")[2].split()}
    assert modules & (set(HEAVY) - {"typer"}) == set()


def test_the_folders_of_data_hold_no_python() -> None:
    assert [str(p) for folder in ("spaces", "docker") for p in (ROOT / folder).rglob("*.py")] == []
    assert not any((ROOT / folder / "__init__.py").exists() for folder in ("core", "reports", "spaces", "docker"))


def test_no_file_names_a_registry_host_or_an_absolute_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout: the list of tracked files is unknown")
    hosts = [
        ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))
    ]
    found = []
    for name in listed.stdout.split("\n"):
        path = ROOT / name
        if name and path.is_file() and path.suffix not in {".png", ".npz", ".webp", ".jpg"}:
            text = path.read_text(encoding="utf-8", errors="ignore")
            found += [f"{name}: {host}" for host in hosts if host in text]
    assert found == []


def test_requirements_are_pinned_with_hashes_and_without_index_addresses() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert pins
    assert all("==" in pin for pin in pins)
    assert not any("index-url" in line or "find-links" in line for line in lines if not line.lstrip().startswith("#"))
    assert sum("--hash=sha256:" in line for line in lines) >= len(pins)
