"""The programs of ``benchmarks/`` still find what they import; what they measure is nobody's test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PROGRAMS = sorted(file.stem for file in FOLDER.glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_finds_what_it_imports(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in PROGRAMS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        assert importlib.import_module(program).__doc__
    finally:
        for name in PROGRAMS:  # their names are common: nobody else is to find them
            sys.modules.pop(name, None)
