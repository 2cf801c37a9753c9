"""What the documentation says is true: links lead somewhere, commands and options exist, examples expand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    p.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "core/*.md", "reports/*.md", "spaces/*.md", "tests/**/*.md")
    for p in ROOT.glob(pattern)
)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    missing = []
    for target in targets:
        path = target.partition("#")[0]
        if path and not path.startswith(("http://", "https://")) and not ((ROOT / page).parent / path).exists():
            missing.append(target)
    assert missing == []


def commands() -> set[str]:
    from ablate.cli.app import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    return names | {group.name for group in app.registered_groups if group.name}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`ablate ([a-z]+)", text)) | set(re.findall(r"^ablate ([a-z]+)", text, re.MULTILINE))
    assert named - commands() == set()


def test_every_command_is_in_the_readme_and_has_help() -> None:
    from ablate.cli.app import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in commands() if f"`ablate {name}" not in readme] == []
    assert all(command.callback and command.callback.__doc__ for command in app.registered_commands)


def test_every_option_that_the_documentation_names_exists() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ablate" / "cli").glob("*.py"))
    known = set(re.findall(r"--[a-z][a-z-]+", sources)) | {
        "--" + name.replace("_", "-") for name in re.findall(r"^    (\w+): ", sources, re.MULTILINE)
    }
    documented = ("cluster", "space-file", "store", "json", "plugins")
    for page in ("README.md", *(f"docs/{name}.md" for name in documented)):
        named = set(re.findall(r"`(?:ablate [^`]*?)?(--[a-z][a-z-]+)", (ROOT / page).read_text(encoding="utf-8")))
        assert named - known == set(), page


def test_the_readme_gives_a_whole_space() -> None:
    from ablate.space import expand, space_from_text

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    plan = expand(space_from_text(text))
    assert len(plan.arms) == 6
    assert len(plan.trials) == 18


def test_the_exit_codes_are_those_of_the_program() -> None:
    from ablate.errors import ExitCode

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sentence = readme[readme.index("Exit codes:") :].split("\n\n")[0]
    assert set(map(int, re.findall(r"\b\d+\b", sentence))) == {int(code) for code in ExitCode}


def test_the_methods_that_the_readme_lists_are_the_methods() -> None:
    from ablate_core.methods import METHODS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"published methods \(([^)]*)\)", readme)
    assert set(re.findall(r"`(\w+)`", listed)) == set(METHODS)


def test_the_changelog_names_this_version() -> None:
    from ablate import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_page_on_sampling_has_every_sampler_and_setting() -> None:
    from typing import get_args

    from ablate_core.config import EvalConfig
    from ablate_core.sampling_steps import Sampler

    text = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(get_args(Sampler))
    fields = list(EvalConfig.model_fields)
    settings = fields[fields.index("nfe") : fields.index("ema")]
    assert [name for name in settings if f"`eval.{name}" not in text and f"`{name}" not in text] == []
