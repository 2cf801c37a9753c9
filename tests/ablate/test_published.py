"""Published numbers: the file is complete and consistent, spaces refer to it, the command prints it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ablate.cli import main
from ablate.errors import ExitCode, SpaceError
from ablate.space import expand, load_space, space_from_text
from ablate.space.published import FILE, Numbers, published
from ablate.space.source import read_file, read_text

SPOT = {
    "imagenet256_xl2_1nfe": {
        "iCT": 34.24, "SCD": 10.60, "IMM_1x2": 7.77, "MeanFlow": 3.43, "MeanFlow_2nfe": 2.93,
        "ESC_class_consistent": 2.85, "ESC_plus": 2.53,
    },
    "ablation_sit_b2_cfg_1nfe_imagenet256": {
        "baseline_MeanFlow_cfg": 6.09, "A1_plugin_p1.0": 6.01, "A2_plugin_p0.5": 5.98,
        "B1_plugin_p1.0_class_consistent": 6.08, "B2_plugin_p0.5_class_consistent": 5.96,
        "C_gradual_time_sampler": 5.99, "D_extra_stabilisation": 5.95, "ESC_B2_C_D": 5.77,
    },
    "cifar10_uncond_curves_best": {
        "CT": 18.12, "CT-linear": 14.82, "SCD": 12.92, "IMM": 4.41, "MeanFlow": 3.15, "sCT": 7.14, "sCT-linear": 4.46,
    },
    "cifar10_uncond_1nfe_reported": {"ESC": 2.83, "MeanFlow": 2.92, "sCT": 2.97, "IMM": 3.20},
    "imagenet256_b2_class_cond_no_cfg_600k": {
        "SCD": 47.76, "sCT": 44.94, "IMM": 41.03, "sCT-linear": 34.56, "MeanFlow": 33.05,
    },
    "imagenet256_b2_cfg_600k": {"SCD": 29.34, "sCT-linear": 6.19, "MeanFlow": 6.09},
    "repo_sample_metrics": {
        "imm-b2-cnd_600k_fid": 91.957, "imm-b2-cnd_600k_is": 12.337, "shortcut-b2-cfg_80k_fid": 90.096,
        "shortcut-b2-cfg_80k_is": 16.282, "meanflow-xl2-scm-ev-labelcluster_1.2M_fid": 2.85237,
        "meanflow-xl2-scm-ev-labelcluster_1.2M_is": 251.946,
    },
    "plugin_overhead_ms_per_iter": {"without": 554, "with": 558},
}  # fmt: skip
"""Written down a second time, from the design document and not from the file."""

OTHERS = {
    "meanflow_b4": [61.09, 60.75, 20.15, 20.24, 19.15, 18.70, 48.16, 13.74, 11.35],
    "zy_meanflow": [58.74, 15.43, 6.06, 3.94, 3.39, 6.35, 61.06, 15.53, 6.17, 3.84, 3.43],
    "py_meanflow_cifar10": [2.9, 2.80],
    "shortcut_models": [6.9, 13.8, 20.5, 15.5, 28.3, 40.3, 3.8, 7.8, 10.6],
    "imf_imagenet256": [3.39, 2.27, 1.86, 1.72, 1.54],
    "pmf_imagenet256": [3.12, 2.52, 2.22],
    "tvm_imagenet": [3.29, 1.99, 4.32],
    "alphaflow_xl2plus": [2.58, 2.15],
    "dmf_xl2": [2.16, 2.12, 1.51],
    "ect_cifar10": [4.54, 2.20, 3.86, 2.15, 3.60, 2.11],
    "cmt_cifar10": [2.74, 1.97],
    "remeanflow_imagenet512": [3.03],
}
SPACE = "base: {objective: meanflow}\naxes: {schedule: [linear, cosine01]}\n"


def test_every_number_of_the_design_is_in_the_file_and_no_other() -> None:
    tables = published().tables
    assert {name: {key: e.value for key, e in tables[name].entries.items()} for name in SPOT} == SPOT
    assert {name: [e.value for e in tables[name].entries.values()] for name in OTHERS} == OTHERS
    assert set(tables) == {*SPOT, *OTHERS}


def test_no_number_is_listed_twice() -> None:
    seen: dict[str, str] = {}
    for name, table in published().tables.items():
        for key, entry in table.entries.items():
            text = entry.model_dump_json(exclude={"note"})
            assert text not in seen, f"{name}.{key} repeats {seen.get(text)}"
            seen[text] = f"{name}.{key}"


def test_what_is_known_of_a_number_stands_with_it() -> None:
    tables = published().tables
    d = tables["ablation_sit_b2_cfg_1nfe_imagenet256"].entries["D_extra_stabilisation"]
    assert (d.metric, d.architecture, d.nfe, d.guided, d.iterations) == ("fid50k", "SiT-B/2", 1, True, 600_000)
    assert "broadcasts" in (d.note or "")
    assert tables["imagenet256_xl2_1nfe"].entries["IMM_1x2"].nfe == "1x2"
    assert tables["imagenet256_xl2_1nfe"].entries["ESC_plus"].iterations == 2_400_000
    assert [tables["cifar10_uncond_curves_best"].entries[m].iterations for m in ("CT", "SCD", "sCT")] == [
        350_000,
        150_000,
        700_000,
    ]
    assert {e.source.kind for e in tables["cifar10_uncond_1nfe_reported"].entries.values()} == {"secondary"}
    assert "91.957" in (tables["imagenet256_b2_class_cond_no_cfg_600k"].entries["IMM"].note or "")
    assert "41.03" in (tables["repo_sample_metrics"].entries["imm-b2-cnd_600k_fid"].note or "")
    assert tables["repo_sample_metrics"].entries["meanflow-xl2-scm-ev-labelcluster_1.2M_is"].spread == 3.435
    assert not any(e.guided for e in tables["imagenet256_b2_class_cond_no_cfg_600k"].entries.values())


def test_settings_and_findings_are_kept_too() -> None:
    common = published().settings["training_settings_esc"].rows["common"]
    assert (common["mu"], common["term_zero_steps"], common["grad_warmup_steps"]) == (-0.4, 20_000, 0)
    assert published().settings["training_settings_esc"].rows["XL2"]["kappa"] == 0.92
    assert published().settings["training_settings_baselines"].rows["IMM_cnd"]["gamma"] == 12
    assert len(published().findings) == 3


@pytest.mark.parametrize(
    "spoilt",
    [
        ("value: 6.09}", "value: .nan}"),
        ("value: 6.09}", "value: good}"),
        ("kind: secondary", "kind: hearsay"),
        ("epochs: 240\n        iterations: 1_200_000", "epochs: 0\n        iterations: 1_200_000"),
        ("guided: false\n    entries:\n      ESC:", "guidance: w 2\n    entries:\n      ESC:"),
        ("      ESC: {method: ESC, value: 2.83}", "      ESC: {method: ESC, valeu: 2.83}"),
        ("      ESC: {method: ESC, value: 2.83}", "      ESC: {method: ESC, value: 2.83}\n      ESC: {value: 2}"),
    ],
)
def test_a_spoilt_file_is_refused(spoilt: tuple[str, str]) -> None:
    text = FILE.read_text(encoding="utf-8")
    Numbers.model_validate(read_text(text, "f").data)
    assert text.count(spoilt[0]) >= 1
    with pytest.raises(ValueError, match=r"valid|kind|given|duplicate|greater|permitted|guidance|finite"):
        _read(text.replace(spoilt[0], spoilt[1], 1))


def _read(text: str) -> None:
    try:
        Numbers.model_validate(read_text(text, "f").data)
    except SpaceError as error:
        raise ValueError(str(error)) from None


def test_the_file_ships_inside_the_package() -> None:
    import ablate

    assert FILE.parent.parent == Path(ablate.__file__).resolve().parent
    assert read_file(FILE).data


@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_a_space_refers_to_a_table_instead_of_retyping_it(form: str) -> None:
    one = "{table: repo_sample_metrics, arms: {grid.linear: meanflow-xl2-scm-ev-labelcluster_1.2M_is}}"
    (row,) = expand(space_from_text(SPACE + "published: " + form.replace("{}", one))).published
    assert row == {
        "arm": "linear",
        "metric": "inception_score",
        "value": 251.946,
        "spread": 3.435,
        "method": "ESC, class-consistent batches",
        "identity": {
            "dataset": "ImageNet-256, class-conditional",
            "architecture": "SiT-XL/2",
            "guided": True,
            "iterations": 1_200_000,
            "samples": 50_000,
            "evaluation": "torch-fidelity on decoded PNG files against ADM's statistics",
        },
        "source": "repository: EDAPINENUT/ExplicitShortCut, samples/*/metrics.json",
        "note": "the spread is that of the score's splits of one sample, not of repeated runs",
        "table": "repo_sample_metrics",
        "entry": "meanflow-xl2-scm-ev-labelcluster_1.2M_is",
    }


def test_both_forms_stand_side_by_side_and_a_child_takes_the_table_back(tmp_path: Path) -> None:
    rows = "published:\n  - {table: cmt_cifar10, arms: {linear: 1nfe, cosine01: 2nfe}}\n"
    rows += "  - {arm: linear, metric: fid, value: 3, source: a paper}\n"
    found = expand(space_from_text(SPACE + rows)).published
    assert [(row["arm"], row["value"]) for row in found] == [("linear", 2.74), ("cosine01", 1.97), ("linear", 3.0)]
    (tmp_path / "a.yaml").write_text(SPACE + "published: {table: cmt_cifar10, arms: {linear: 1nfe}}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\npublished:\n")
    assert expand(load_space(tmp_path / "b.yaml")).published == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{table: cmt_cifar, arms: {linear: 1nfe}}", "3:20: no published table is named 'cmt_cifar'; did you mean cmt"),
        ("{table: cmt_cifar10, arms: {linear: 3nfe}}", "3:48: no entry of cmt_cifar10 is named '3nfe'; did you mean"),
        ("{table: cmt_cifar10, arms: {liner: 1nfe}}", "3:40: no arm is named 'liner'; did you mean linear?"),
        ("[{table: cmt_cifar10, arms: {liner: 1nfe}}]", "3:41: no arm is named 'liner'; did you mean linear?"),
        ("{table: cmt_cifar10, arms: {}}", "3:39: published.arms: dictionary should have at least 1 item"),
        ("{table: cmt_cifar10}", "3:1: published.arms: is required"),
        (
            "{table: cmt_cifar10, arms: {linear: 1nfe}, value: 3}",
            "3:55: published: no key is named 'value'; did you mean table?",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, line: str) -> None:
    with pytest.raises(SpaceError) as caught:
        expand(space_from_text(SPACE + f"published: {text}"))
    assert str(caught.value).startswith(f"<space>:{line}")


def test_the_command_lists_tables_and_one_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", "published", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    code, out, _ = call()
    assert code == 0
    assert all(name in out for name in (*SPOT, *OTHERS, "training_settings_esc", "linear path is better"))
    code, out, _ = call("repo_sample_metrics")
    assert "251.946 +- 3.435" in out
    assert "samples: 50,000" in out
    code, out, _ = call("py_meanflow_cifar10")
    assert "about 2.9" in out
    code, out, _ = call("training_settings_esc")
    assert "vplug_prob 0.5" in out
    code, out, _ = call("--json")
    assert json.loads(out)["tables"]["cmt_cifar10"]["entries"]["1nfe"]["value"] == 2.74
    code, out, _ = call("cmt_cifar10", "--json")
    assert json.loads(out)["entries"]["2nfe"]["source"]["kind"] == "repository"
    code, out, err = call("cmt")
    assert code == ExitCode.USAGE
    assert err.count("\n") == 1
    assert "no published table is named 'cmt'" in err
