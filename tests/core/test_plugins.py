"""Plug-ins: found by their entry point or by name, loaded once, named in one line when they cannot be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ablate_core import plugins
from ablate_core.component import axes
from ablate_core.plugins import PluginError, Release
from ablate_core.schedules import Schedule

pytestmark = pytest.mark.usefixtures("registry")
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "plugin_package"
PATH = """
from typing import Literal
import torch
from ablate_core.schedules.base import PathPoint, Schedule


class Mine(Schedule):
    name: Literal["mine"] = "mine"

    def at(self, t):
        return PathPoint(1 - t, t, -torch.ones_like(t), torch.ones_like(t))

    def time_of_ratio(self, ratio):
        return ratio / (1 + ratio)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits within a second would be missed
    return tmp_path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example plug-in as a wheel, as its author would publish it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, folder: Path) -> None:
    """What an installer does with a wheel of pure Python."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def test_an_installed_distribution_is_found_by_its_entry_point_and_loaded_once(wheel: Path, here: Path) -> None:
    assert "ablate_example_plugin" not in plugins.discover()
    install(wheel, here / "site")
    sys.path.insert(0, str(here / "site"))
    found = plugins.discover()
    assert found["ablate_example_plugin"] == Release("ablate-example-plugin", "0.1.0")
    assert "ablate_example_plugin" not in sys.modules, "nothing is imported by looking"
    (plugin,) = plugins.load(found)
    assert plugin.release == Release("ablate-example-plugin", "0.1.0")
    assert plugins.loaded() == (plugin,) == plugins.load(["ablate_example_plugin"] * 2)
    names = {(cls.axis, cls.model_fields["name"].default) for cls in plugins.components("ablate_example_plugin")}
    assert names == {("schedule", "parabola"), ("time_sampler", "tilted"), ("architecture", "film")}
    assert {plugins.plugin_of(cls) for cls in plugins.components()} == {"ablate_example_plugin"}
    assert plugins.plugin_of(Schedule.choice("linear")) is None
    assert Schedule.model_validate("parabola").name == "parabola"
    sys.path.remove(str(here / "site"))


def test_installed_plugins_can_be_left_alone(wheel: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(wheel, here)
    assert "ablate_example_plugin" in plugins.discover()
    monkeypatch.setenv(plugins.AUTOLOAD, "0")
    assert plugins.discover() == {}


def test_a_copy_without_metadata_is_what_the_sender_says_it_is(here: Path) -> None:
    shutil.copytree(PACKAGE / "ablate_example_plugin", here / "ablate_example_plugin")
    (unknown,) = plugins.load(["ablate_example_plugin"])
    assert unknown.release == Release(None, None)
    (told,) = plugins.load(["ablate_example_plugin"], {"ablate_example_plugin": ["ablate-example-plugin", "0.1.0"]})
    assert told.to_dict() == {
        "distribution": "ablate-example-plugin",
        "version": "0.1.0",
        "sha256": unknown.sha256,
    }
    assert plugins.loaded() == (told,)


def load_afresh(module: str) -> plugins.Plugin:
    """As another process would load it."""
    plugins._loaded.pop(module, None)
    Schedule.choices.pop("mine", None)
    root = module.partition(".")[0]
    for name in [name for name in sys.modules if name == root or name.startswith(f"{root}.")]:
        del sys.modules[name]
    (plugin,) = plugins.load([module])
    return plugin


def test_the_hash_is_that_of_the_code_and_of_nothing_else(here: Path) -> None:
    lab = here / "lab"
    (lab / "deep").mkdir(parents=True)
    (lab / "__init__.py").write_text("")
    (lab / "deep" / "__init__.py").write_text("")
    (lab / "paths.py").write_text(PATH)
    first = load_afresh("lab.paths")
    (lab / "notes.txt").write_text("not code")
    (lab / "__pycache__").mkdir(exist_ok=True)
    (lab / "__pycache__" / "stale.py").write_text("not imported from here")
    assert load_afresh("lab.paths").sha256 == first.sha256
    (lab / "deep" / "helper.py").write_text("")
    second = load_afresh("lab.paths")
    assert second.sha256 != first.sha256
    (lab / "deep" / "helper.py").rename(lab / "deep" / "other.py")
    assert load_afresh("lab.paths").sha256 not in (first.sha256, second.sha256)
    (lab / "deep" / "other.py").write_text("x = 1")
    third = load_afresh("lab.paths")
    shutil.copytree(lab, here / "elsewhere" / "lab")
    sys.path.insert(0, str(here / "elsewhere"))
    assert load_afresh("lab.paths").sha256 == third.sha256, "a shipped copy has the hash of its source"
    sys.path.remove(str(here / "elsewhere"))


@pytest.mark.parametrize(
    ("module", "files", "name", "path"),
    [
        ("single", {"single.py": PATH}, "single", "single.py"),
        ("lab.paths", {"lab/__init__.py": "", "lab/paths.py": PATH}, "lab", "lab"),
        ("space.lab.paths", {"space/lab/__init__.py": "", "space/lab/paths.py": PATH}, "space.lab", "space/lab"),
        ("space.paths", {"space/paths.py": PATH}, "space.paths", "space/paths.py"),
    ],
)
def test_the_home_of_a_plugin_is_its_outermost_package_that_is_no_namespace(
    here: Path, module: str, files: dict[str, str], name: str, path: str
) -> None:
    write(here, files)
    plugins.load([module])
    assert plugins.home(module) == (name, here / path)
    assert [cls.__name__ for cls in plugins.components(module)] == ["Mine"]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


REFUSED = {
    "a path": ("./mine.py", {}, "'./mine.py': is no name of a module; write it as in an import"),
    "code": ("mine; print(1)", {}, "is no name of a module"),
    "a keyword": ("mine.class", {}, "is no name of a module"),
    "nothing": ("", {}, "'': is no name of a module"),
    "unknown": ("mine", {}, "no module is named 'mine'; install the plug-in, or put its folder on PYTHONPATH"),
    "unknown part": ("mine.paths", {"mine/__init__.py": ""}, "no module is named 'mine.paths'"),
    "broken": ("mine", {"mine.py": "\n1 / 0"}, "ZeroDivisionError: division by zero (mine.py, line 2); mend it"),
    "no syntax": ("mine", {"mine.py": "class"}, "SyntaxError: invalid syntax (mine.py, line 1); mend it"),
    "needs more": ("mine", {"mine.py": "import not_there"}, "No module named 'not_there' (mine.py, line 1); mend it"),
    "a script": ("mine", {"mine.py": "raise SystemExit(3)"}, "SystemExit: 3"),
    "no component": ("mine", {"mine.py": "x = 1"}, "registers no component; name the module that defines them"),
    "clash with ours": (
        "mine",
        {"mine.py": PATH.replace('"mine"', '"linear"')},
        "schedule 'linear' of mine is already the name of one of ablate_core.schedules.linear; give it another",
    ),
    "clash with itself": (
        "mine",
        {"mine.py": PATH + "\n\nclass Again(Mine):\n    pass\n"},
        "schedule 'mine' of mine is already the name of one of mine",
    ),
    "no name": ("mine", {"mine.py": PATH.replace('Literal["mine"]', "str")}, 'names itself, name: Literal["..."]'),
    "half a schedule": (
        "mine",
        {"mine.py": PATH[: PATH.index("    def time_of_ratio")]},
        "schedule Mine of mine lacks time_of_ratio",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plugin_that_cannot_be_used_is_one_line_and_leaves_nothing_behind(here: Path, case: str) -> None:
    module, files, message = REFUSED[case]
    write(here, files)
    before = {axis: dict(base.choices) for axis, base in axes().items()}
    with pytest.raises(PluginError) as refused:
        plugins.load([module])
    assert str(refused.value).startswith("plug-in ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {axis: dict(base.choices) for axis, base in axes().items()} == before
    assert plugins.loaded() == ()
    assert "mine" not in sys.modules


def test_a_mended_plugin_can_be_loaded_by_the_same_process(here: Path) -> None:
    write(here, {"lab/__init__.py": "from lab import paths, more", "lab/paths.py": PATH, "lab/more.py": "1 / 0"})
    with pytest.raises(PluginError, match=r"division by zero \(more.py, line 1\)"):
        plugins.load(["lab"])
    assert "mine" not in Schedule.choices
    write(here, {"lab/more.py": "x = 1"})
    plugins.load(["lab"])
    assert Schedule.choice("mine").__module__ == "lab.paths"


def test_two_plugins_with_one_name_are_told_apart_by_their_modules(here: Path) -> None:
    write(here, {"one.py": PATH, "two.py": PATH})
    plugins.load(["one"])
    with pytest.raises(PluginError, match="plug-in two: schedule 'mine' of two is already the name of one of one"):
        plugins.load(["two"])
    assert Schedule.choice("mine").__module__ == "one"


# --- the contracts


def test_the_plugin_passes_its_own_tests_and_ours_as_installed(wheel: Path, tmp_path: Path) -> None:
    install(wheel, tmp_path / "site")
    shutil.copytree(PACKAGE / "tests", tmp_path / "own")
    ours = [f"tests/core/test_{name}.py" for name in ("schedules", "time_samplers", "objective")]
    loaded = ["-c", "pyproject.toml", "-p", "ablate_example_plugin", "-p", "no:cacheprovider"]
    loaded += ["-k", "parabola or tilted or film"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *loaded, *ours, str(tmp_path / "own")],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) > 60
