"""Checkpoints survive kills, cut files and flipped bits, and hold nothing but data."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from ablate_core import checkpoint
from ablate_core.checkpoint import CURRENT, PREVIOUS, load_checkpoint, save_checkpoint


def state(step: int) -> dict[str, object]:
    return {"step": step, "net": {"w": torch.arange(50_000.0) + step}}


def test_the_newest_checkpoint_is_read_back_and_the_one_before_is_kept(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "new", state(step))
    loaded = load_checkpoint(tmp_path / "new")
    assert loaded["step"] == 3
    assert torch.equal(loaded["net"]["w"], state(3)["net"]["w"])
    assert torch.load(tmp_path / "new" / PREVIOUS)["step"] == 2
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted([CURRENT, PREVIOUS])


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_file_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step))
    content = bytearray((tmp_path / CURRENT).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = bytes(b ^ 0xFF for b in content[middle : middle + 4])
    damaged = {"cut": content[:middle], "empty": b"", "flipped": content, "text": b"not a checkpoint"}[damage]
    (tmp_path / CURRENT).write_bytes(damaged)
    with pytest.warns(UserWarning, match="cannot read the checkpoint"):
        assert load_checkpoint(tmp_path)["step"] == 1
    save_checkpoint(tmp_path, state(5))
    assert load_checkpoint(tmp_path)["step"] == 5
    assert torch.load(tmp_path / PREVIOUS)["step"] == 1, "the damaged file never replaces the good one"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_flipped_bit_that_names_a_compression_gives_way_to_the_one_before(tmp_path: Path, method: int) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step))
    content = bytearray((tmp_path / CURRENT).read_bytes())
    entry = content.index(b"PK\x01\x02")  # of the directory, the first
    content[entry + 10 : entry + 12] = method.to_bytes(2, "little")
    (tmp_path / CURRENT).write_bytes(content)
    with pytest.warns(UserWarning, match="cannot read the checkpoint"):
        assert load_checkpoint(tmp_path)["step"] == 1


def test_a_kill_before_the_rename_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, state(1))

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state(2))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["step"] == 1


def test_a_kill_between_the_renames_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1))
    os.replace(tmp_path / CURRENT, tmp_path / PREVIOUS)
    assert load_checkpoint(tmp_path)["step"] == 1


def test_no_code_is_ever_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"step": Evil()}, tmp_path / CURRENT)
    with pytest.warns(UserWarning, match="cannot read"):
        assert load_checkpoint(tmp_path) is None
    assert not (tmp_path / "ran").exists()


def test_the_file_is_forced_to_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (calls.append("sync"), real_sync(fd)))
    monkeypatch.setattr(checkpoint.os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b)))
    save_checkpoint(tmp_path, state(1))
    assert calls == ["sync", "rename", "sync"]
