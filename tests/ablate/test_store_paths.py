"""`StorePaths` names every file of a store."""

from pathlib import Path

import pytest

from ablate.errors import StoreError
from ablate.store.paths import StorePaths


def test_the_root_is_the_flag_then_the_environment_then_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABLATE_HOME", raising=False)
    assert StorePaths().root == tmp_path / "runs"
    monkeypatch.setenv("ABLATE_HOME", str(tmp_path / "home"))
    assert StorePaths().root == tmp_path / "home"
    assert StorePaths("flag").root == tmp_path / "flag"
    monkeypatch.setenv("ABLATE_HOME", "")
    assert StorePaths().root == tmp_path / "runs"


def test_naming_files_touches_no_disk(tmp_path):
    paths = StorePaths(tmp_path / "runs")
    assert paths.trial("0123456789abcdef") == tmp_path / "runs/trials/01/0123456789abcdef"
    assert paths.checkpoint("0123456789abcdef").parent == paths.trial("0123456789abcdef")
    assert paths.report("demo") == tmp_path / "runs/studies/demo/report.html"
    assert paths.journals() == []
    assert not paths.root.exists()


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../../etc", "a\nb", "a b"])
def test_a_name_that_could_leave_the_store_is_refused(tmp_path, name):
    with pytest.raises(StoreError, match="is no study name"):
        StorePaths(tmp_path).study(name)


def test_files_inside_are_kept_relative_so_that_a_store_can_move(tmp_path):
    paths = StorePaths(tmp_path / "runs")
    kept = paths.relative(paths.trial("ab12") / "samples.png")
    assert kept == "trials/ab/ab12/samples.png"
    assert StorePaths(tmp_path / "moved").absolute(kept) == tmp_path / "moved/trials/ab/ab12/samples.png"
    assert paths.absolute(paths.relative("/elsewhere/x.png")) == Path("/elsewhere/x.png")
