"""Where all tests are collected anyway, what proves what is read from them, not from a process that collects again."""

from __future__ import annotations

from pathlib import Path

import pytest
import table


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Called before any test is deselected."""
    left_out = config.getoption("ignore") or config.getoption("ignore_glob") or config.getoption("lf", False)
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not left_out:
        folders = [table.ROOT / folder for folder in table.FOLDERS]
        collector = table.Collector()
        collector.pytest_collection_modifyitems([i for i in items if {*folders} & {*Path(i.path).parents}])
        table.whole_run = collector.found
