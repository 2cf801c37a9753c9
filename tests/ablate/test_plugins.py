"""A component from outside is used from YAML, on the command line, in forked attempts and by workers elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ablate.cli import main
from ablate.errors import ExitCode
from ablate.launch.attempt import Context, Task
from ablate.launch.cluster import shipped
from ablate.launch.forkserver import ForkServer, warm_process
from ablate.launch.options import RunOptions
from ablate.launch.slots import SlotSettings
from ablate.space import expand, load_space, space_from_text, train_key
from ablate.store import StorePaths, read_events, trial_detail
from ablate_core import plugins

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parents[1] / "plugin_package"
EXAMPLE = "ablate_example_plugin"
SPACE = "base: {objective: meanflow}\naxes: {schedule: [linear, parabola]}\n"
BROKEN = "\n1 / 0"
CLASH = """
from typing import Literal
from ablate_core.schedules.linear import Linear


class Other(Linear):
    name: Literal["linear"] = "linear"
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def here(registry: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working folder, with a folder of importable modules in it that holds the example plug-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_HOME", str(tmp_path / "store"))
    shutil.copytree(PACKAGE / EXAMPLE, tmp_path / "modules" / EXAMPLE, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    (tmp_path / "modules" / "broken.py").write_text(BROKEN)
    (tmp_path / "modules" / "clash.py").write_text(CLASH)
    return tmp_path


@pytest.fixture
def ablate(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Call the program in this process."""

    def call(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return call


def declare(folder: Path, module: str, name: str = "somebody's") -> None:
    """The metadata of an installed distribution whose entry point is `module`."""
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[ablate.components]\nit = {module}\n")


# --- how a plug-in is named


def by_flag(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--plugin", EXAMPLE]


def by_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("ABLATE_PLUGINS", f" {EXAMPLE}, ")
    return []


def by_settings(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (here / "ablate.toml").write_text(f'plugins = ["{EXAMPLE}"]\n')
    return []


def by_installation(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    declare(here / "modules", EXAMPLE)
    plugins._declared.cache_clear()
    return []


@pytest.mark.parametrize("way", [by_flag, by_environment, by_settings, by_installation])
def test_components_of_a_plugin_are_listed_described_and_planned_however_it_is_named(
    ablate: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., list[str]]
) -> None:
    Path("s.yaml").write_text(SPACE)
    refused = ablate("plan", "s.yaml")
    assert refused.code == ExitCode.USAGE
    assert "no schedule is named 'parabola'" in refused.err
    words = way(here, monkeypatch)
    listed = json.loads(ablate("components", "--json", *words).out)["axes"]
    origin = {(axis, c["name"]): c["plugin"] for axis, choices in listed.items() for c in choices}
    mine = {key for key, plugin in origin.items() if plugin == EXAMPLE}
    assert mine == {("schedule", "parabola"), ("time_sampler", "tilted"), ("architecture", "film")}
    assert {plugin for key, plugin in origin.items() if key not in mine} == {None}
    assert f"parabola (of plug-in {EXAMPLE})" in ablate("components", "show", "parabola", *words).out
    schema = json.loads(ablate("schema", *words).out)
    for axis, name in mine:
        assert name in {option.get("const") for option in schema["$defs"][axis]["anyOf"]}
    plan = json.loads(ablate("plan", "s.yaml", "--json", *words).out)
    assert [arm["label"] for arm in plan["arms"]] == ["linear", "parabola"]
    assert plan["plugins"] == [EXAMPLE]


def test_a_space_names_its_own_plugins_and_passes_them_on(here: Path) -> None:
    assert load_space(PACKAGE / "space.yaml").loaded == (EXAMPLE,)
    Path("parent.yaml").write_text(f"plugins: {EXAMPLE}\n{SPACE}")
    Path("child.yaml").write_text("extends: parent.yaml\nname: child")
    child = load_space("child.yaml")
    assert (child.plugins, child.loaded) == ([EXAMPLE], (EXAMPLE,))
    assert {arm.label for arm in expand(child).arms} == {"linear", "parabola"}


# --- what is refused


@pytest.mark.parametrize(
    ("line", "mark", "message"),
    [
        ("plugins: nowhere", "1:10", "plugins: plug-in nowhere: no module is named 'nowhere'; install the plug-in"),
        ("plugins: [broken]", "1:11", "ZeroDivisionError: division by zero (broken.py, line 2); mend it"),
        (
            f"plugins: [{EXAMPLE}, clash]",
            "1:34",
            "schedule 'linear' of clash is already the name of one of ablate_core",
        ),
        ("plugins: [json]", "1:11", "registers no component"),
        ("plugins: [./modules/broken.py]", "1:11", "is no name of a module; write it as in an import"),
        ("plugins: [3]", "1:11", "input should be a valid string, got 3"),
        ("plugins: {a: b}", "1:10", "input should be a list, [a, b]"),
    ],
)
def test_a_plugin_of_a_space_that_cannot_be_used_is_one_line_with_its_place(
    ablate: Callable[..., Ended], line: str, mark: str, message: str
) -> None:
    Path("s.yaml").write_text(f"{line}\n{SPACE}")
    ended = ablate("run", "s.yaml", "--yes")
    assert ended.code == ExitCode.USAGE
    assert ended.err.startswith(f"error: s.yaml:{mark}: plugins")
    assert ended.err.count("\n") == 1
    assert message in ended.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            "plug-in nowhere: no module is named 'nowhere'; install the plug-in, or put its folder on PYTHONPATH",
        ),
        ("broken", "plug-in broken: does not import: ZeroDivisionError: division by zero (broken.py, line 2); mend it"),
        (
            "clash",
            "plug-in clash: schedule 'linear' of clash is already the name of one of ablate_core.schedules.linear",
        ),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_line_wherever_it_is_named(
    ablate: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    for words in (["plan", "smoke"], ["run", "smoke", "--yes"], ["components"], ["schema"]):
        ended = ablate(*words, "--plugin", name)
        assert (ended.code, ended.out) == (ExitCode.USAGE, "")
        assert ended.err.startswith(f"error: {message}")
        assert ended.err.count("\n") == 1
    monkeypatch.setenv("ABLATE_PLUGINS", name)
    assert ablate("schema").err.startswith(f"error: ABLATE_PLUGINS: {message}")
    monkeypatch.delenv("ABLATE_PLUGINS")
    declare(here / "modules", name)
    plugins._declared.cache_clear()
    ended = ablate("schema")
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.endswith("; or uninstall somebody's 1.2, or set ABLATE_PLUGIN_AUTOLOAD=0\n")
    monkeypatch.setenv("ABLATE_PLUGIN_AUTOLOAD", "0")
    assert ablate("schema").code == ExitCode.COMPLETE


def test_the_doctor_says_which_plugins_there_are_and_which_cannot_be_used(
    ablate: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(here / "modules", EXAMPLE)
    plugins._declared.cache_clear()
    monkeypatch.setenv("ABLATE_PLUGINS", "broken")
    ended = ablate("doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(ended.out)}
    assert found[f"plug-in {EXAMPLE}"]["found"].startswith("3 components, somebody's 1.2, source ")
    assert found["plug-ins"]["status"] == "error"
    assert "ABLATE_PLUGINS: plug-in broken" in found["plug-ins"]["found"]
    assert ended.code == ExitCode.USAGE


def test_a_list_of_plugins_in_the_settings_is_a_list(ablate: Callable[..., Ended]) -> None:
    Path("ablate.toml").write_text('plugins = "one"\n')
    assert 'ablate.toml: plugins is a list of modules, plugins = ["my_lab.paths"]' in ablate("components").err


def test_help_imports_no_plugin(here: Path) -> None:
    declare(here / "modules", "broken")
    environment = {**os.environ, "PYTHONPATH": str(here / "modules"), "ABLATE_PLUGINS": "clash"}
    for words in (["--help"], ["run", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "ablate", *words], capture_output=True, text=True, cwd=ROOT, env=environment
        )
        assert (done.returncode, done.stderr) == (0, "")


# --- identity


def test_a_component_of_a_plugin_enters_the_key_by_its_name_and_fields_and_its_source_does_not(here: Path) -> None:
    text = f"plugins: {EXAMPLE}\nbase: {{objective: meanflow}}\naxes: {{time: " + (
        "{path: objective.time_sampler.tilt, levels: [0.5, 1.0]}}\nname: t\n"
    )
    text = text.replace("{objective: meanflow}", "{objective: {name: meanflow, time_sampler: tilted}}")
    plan = expand(space_from_text(text))
    keys = {trial.key for trial in plan.trials}
    assert len(keys) == 6
    assert all(train_key(trial.config) == trial.key for trial in plan.trials)
    first = plugins.loaded()
    code = here / "modules" / EXAMPLE / "tilted.py"
    code.write_text(code.read_text() + "\n# another edition\n")
    forget()
    assert {trial.key for trial in expand(space_from_text(text)).trials} == keys
    assert plugins.loaded()[0].sha256 != first[0].sha256


def forget() -> None:
    from ablate_core.component import axes

    for base in axes().values():
        for name in [n for n, cls in base.choices.items() if cls.__module__.startswith(EXAMPLE)]:
            del base.choices[name]
    plugins._loaded.clear()
    for name in [n for n in sys.modules if n.startswith(EXAMPLE)]:
        del sys.modules[name]


# --- where it runs


def recorded(paths: StorePaths) -> list[dict[str, Any]]:
    """The plug-ins of the environment of each attempt."""
    events = list(read_events(paths))
    environments = {e["env_id"]: e["definition"] for e in events if e["kind"] == "env"}
    return [environments[e["env_id"]]["plugins"] for e in events if e["kind"] == "attempt_started"]


def test_a_forked_attempt_uses_the_plugin_and_records_its_name_version_and_source(here: Path) -> None:
    plan = expand(load_space(PACKAGE / "space.yaml"))
    (plugin,) = plugins.loaded()
    trial = next(t for t in plan.trials if t.config.schedule.name == "parabola")
    paths = StorePaths(here / "store").make()
    task = Task(trial.key, trial.eval_key, trial.config.resolved(), label="theirs", steps=20)
    release = {EXAMPLE: ("ablate-example-plugin", "0.1.0")}
    context = Context(str(paths.root), plugins=(EXAMPLE,), releases=release)
    warm = warm_process(1, [EXAMPLE, "broken"])
    try:
        server = ForkServer(warm.address)
        server.run({"tasks": [task.to_dict()], "context": context.to_dict()}, str(here / "log.txt"))
        messages: list[dict[str, Any]] = []
        while not any("exited" in message for message in messages):
            messages += server.poll(60)
        server.close()
    finally:
        warm.close()
    outcomes = [m["report"]["outcome"] for m in messages if "outcome" in m.get("report", {})]
    assert [o["status"] for o in outcomes] == ["done"], (here / "log.txt").read_text()
    known = {"distribution": "ablate-example-plugin", "version": "0.1.0", "sha256": plugin.sha256}
    assert recorded(paths) == [{EXAMPLE: known}]


@pytest.mark.parametrize(
    ("module", "files", "sent"),
    [
        ("single", ["single.py"], ["single.py"]),
        ("lab.paths", ["lab/__init__.py", "lab/paths.py"], ["lab/__init__.py", "lab/paths.py"]),
        ("room.lab.paths", ["room/lab/__init__.py", "room/lab/paths.py", "room/other.py"],
         ["room/lab/__init__.py", "room/lab/paths.py"]),
        ("room.paths", ["room/paths.py", "room/other.py"], ["room/paths.py"]),
    ],
)  # fmt: skip
def test_what_travels_is_the_package_or_the_one_file_also_out_of_a_namespace(
    here: Path, module: str, files: list[str], sent: list[str]
) -> None:
    for name in files:
        file = here / "modules" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("" if name.endswith("__init__.py") else CLASH.replace('"linear"', '"mine"'))
    plugins.load([module])
    stage = here / "stage"
    stage.mkdir()
    options = RunOptions(address="somewhere:6379", plugins=[module])
    *ours, source = [Path(path) for path in shipped(options, stage)["py_modules"]]
    assert [path.name for path in ours] == ["ablate", "ablate_core"]
    found = [source] if source.is_file() else [p for p in source.rglob("*.py")]
    assert sorted(str(p.relative_to(source.parent)) for p in found) == sent
    assert shipped(RunOptions(plugins=[module]), stage) == {}, "workers on this machine share its modules"
    assert shipped(RunOptions(address="a:1", ship_code=False, plugins=[module]), stage) == {}


def test_a_worker_that_was_sent_the_code_looks_there_before_the_drivers_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["sent", "both"])

    def path(**more: Any) -> list[str]:
        return SlotSettings(Context("store"), "process", "", 1.0, 1.0, ("driver", "both"), **more).path()

    assert path() == ["driver", "both", "sent"]
    assert path(own_path_first=True) == ["sent", "both", "driver"]


CLUSTER = """
import sys
import ray
from ablate.launch.cluster import OBJECT_STORE_BYTES
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         object_store_memory=OBJECT_STORE_BYTES)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
DRIVER = """
import shutil, sys
from ablate.launch import RunOptions, run_plan
from ablate.launch.view import PlainView
from ablate.space import expand, load_space
from ablate.store import StorePaths

class View(PlainView):
    def start(self, state):
        shutil.rmtree(sys.argv[4])  # the code has been sent: from here on nobody finds it where it was
        super().start(state)

options = RunOptions(address=sys.argv[3], gpus=0, max_concurrent=1, report_seconds=0.5, plugins=sys.argv[5:])
summary = run_plan(expand(load_space(sys.argv[1])), StorePaths(sys.argv[2]), options, View(sys.stderr))
sys.exit(int(summary.exit_code))
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray that knows nothing of the plug-in, for those who have the token."""
    from ablate.launch.cluster import ENVIRONMENT

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 32)
    environment = {**os.environ, **ENVIRONMENT}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CLUSTER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate()


def test_a_space_with_an_installed_plugin_runs_on_workers_that_never_saw_it(
    cluster: str, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=source, check=True, capture_output=True,
    )  # fmt: skip
    site = here / "site"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(site)
    others = {"single": "single.py", "room.lab.paths": "room/lab/paths.py"}  # one file; a package of a namespace
    (site / "room" / "lab").mkdir(parents=True)
    (site / "room" / "lab" / "__init__.py").write_text("")
    for module, file in others.items():
        (site / file).write_text(CLASH.replace('"linear"', f'"{module[:4]}"'))
    space = Path("s.yaml")
    text = (PACKAGE / "space.yaml").read_text()
    space.write_text(text.replace(f"plugins: [{EXAMPLE}]\n", ""))  # the entry point is enough
    shutil.rmtree(here / "modules")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(space), str(here / "store"), cluster, str(site), *others],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == ExitCode.COMPLETE, done.stderr
    assert not site.exists()
    paths = StorePaths(here / "store")
    (first, second) = recorded(paths)
    assert first == second
    assert set(first) == {EXAMPLE, *others}
    assert (first[EXAMPLE]["distribution"], first[EXAMPLE]["version"]) == ("ablate-example-plugin", "0.1.0")
    keys = {e["trial_id"] for e in read_events(paths) if e["kind"] == "trial"}
    details = [trial_detail(paths, key) for key in keys]
    assert {d["config"]["schedule"]["name"] for d in details} == {"linear", "parabola"}
    for detail in details:
        assert detail["status"] == "done"
        assert detail["plugins"] == [{"attempt": 1, "module": name, **first[name]} for name in sorted(first)]
