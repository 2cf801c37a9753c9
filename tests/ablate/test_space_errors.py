"""Every mistake a person can make in a space is one line with file, line and column, and how to mend it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ablate.errors import ExitCode, SpaceError
from ablate.space import expand, load_space, space_from_text

BASE = "base: {objective: meanflow}\n"
ONE = "axes: {schedule: [linear]}"
GRID = BASE + "axes: {schedule: [linear, cosine01]}\n"


def problems(text: str, overrides: tuple[str, ...] = (), **arguments: Any) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        expand(space_from_text(text, overrides=overrides), **arguments)
    assert caught.value.exit_code == ExitCode.USAGE
    lines = list(caught.value.problems)
    assert all("\n" not in line for line in lines)
    more = f" (+{len(lines) - 1} more)" if len(lines) > 1 else ""
    assert str(caught.value) == lines[0] + more
    return [line.removeprefix("<space>:") for line in lines]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        # keys and values of the file itself
        (GRID + "seed: 3", "3:1: no key is named 'seed'; did you mean seeds?"),
        (GRID + "compare: {baselin: x}", "3:11: compare: no key is named 'baselin'; did you mean baseline?"),
        ("axes: {schedule: [linear]}", "1:1: base: is required"),
        (GRID + "ablate: 2", "3:9: ablate: schema version 2 is not known; this program reads version 1"),
        (GRID + "name: 'a b'", "3:7: name: string should match pattern"),
        (GRID + "seeds: 0", "3:8: seeds: a number of seeds is at least 1, got 0"),
        (GRID + "seeds: [0, 1, 0]", "3:8: seeds: seeds are distinct, got [0, 1, 0]"),
        (GRID + "seeds: [0, -1]", "3:12: seeds.1: input should be greater than or equal to 0, got -1"),
        (
            GRID + "seeds: [0, 9223372036854775808]",
            "3:12: seeds.1: input should be less than or equal to 9223372036854775807, got 9223372036854775808",
        ),
        (
            GRID + "seeds: {extra: {cosine01: [9223372036854775808]}}",
            "3:28: seeds.extra.cosine01.0: input should be less than or equal to 9223372036854775807",
        ),
        (GRID + "seeds: 100000000", "3:8: seeds: a number of seeds is at most 10,000, got 100000000"),
        (GRID + "seeds: []", "3:8: seeds: list should have at least 1 item"),
        (GRID + "metric: {mode: minimum}", "3:16: metric.mode: no choice is named 'minimum'; did you mean min?"),
        (GRID + "compare: {margin: 0}", "3:19: compare.margin: input should be greater than 0, got 0"),
        (
            GRID + "compare: {intervals: none}",
            "3:22: compare.intervals: none is not computed, reports have simultaneous intervals (dunnett); remove the",
        ),
        (GRID + "compare: {intervals: bonferroni}", "3:22: compare.intervals: bonferroni is not computed"),
        (GRID + "compare: {intervals: tukey}", "3:22: compare.intervals: no choice is named 'tukey'; there are dunnet"),
        (GRID + "stop: {kind: asha}", "3:14: stop.kind: no choice is named 'asha'; there are diverged"),
        (GRID + "published: [{arm: x, metric: fid, value: 1}]", "3:13: published.0.source: is required"),
        ("base: 3", "1:7: base: input should be a mapping, {key: value}, got 3"),
        (BASE + "axes: {a: {path: train.lr, levels: 3}}", "2:36: axes.a.levels: input should be a list, [a, b], got 3"),
        # in the words of a space file, with what to write
        (BASE + "axes: {schedule: linear}", "2:18: axes.schedule: an axis is a list of levels, [a, b], or a mapping"),
        (GRID + "seeds: many", "3:8: seeds: seeds are a number, a list of numbers, or a mapping with `list:`, got 'm"),
        (GRID + "metric: 3", "3:9: metric: a metric is a name, or a mapping with `mode:` and `at:`, got 3"),
        (GRID + "stop: diverged", "3:7: stop: input should be a mapping, {key: value}, got 'diverged'"),
        (GRID + "claims: A is better.", "3:9: claims: input should be a list, [a, b], got 'A is better.'"),
        (
            GRID + "resources: {pack: many}",
            "3:19: resources.pack: input should be a valid integer, unable to parse string as an integer, got 'many', "
            "nor auto",
        ),
        (
            GRID + "resources: {retries: {oom: x}}",
            "3:28: resources.retries.oom: input should be a valid integer, unable to parse string as an integer, got "
            "'x', nor unlimited",
        ),
        ("base: {objective: fm, eval.also: kid}\n" + ONE, "1:34: eval.also: input should be a list, [a, b], got 'kid'"),
        (
            GRID + "question: a\x07b",
            "3:12: unreadable YAML: the control character U+0007 cannot stand in YAML; remove it",
        ),
        # configs: the base, levels, arms, fidelity
        (
            "base: {objective: fm, train.lr: 5e-3, train: {lr: 1e-3}}\n" + ONE,
            "1:39: train.lr is written twice, by 'train.lr' and 'train'; leave one of them out",
        ),
        (
            BASE + "axes: {lr: {levels: {a: {}, b: {train: {lr: 1}, train.lr: 2}}}}",
            "2:49: train.lr is written twice, by 'train' and 'train.lr'; leave one of them out",
        ),
        (
            BASE
            + "axes: {lr: {path: train.lr, levels: [2e-3, 4e-3]}}\n"
            + "plans: {rows: {kind: list, arms: {B: {}, A: {lr: 4e-3, train.lr: 5e-4}}}}",
            "3:42: arm 'A': lr=0.004 and the arm itself both set train.lr; leave one of them out",
        ),
        ("base: {}\n" + ONE, "1:1: objective: is required"),
        ("base: {objective: meanflo}\n" + ONE, "1:19: objective: no objective is named 'meanflo'; did you"),
        (
            "base: {objective: fm, train: {stepz: 3}}\n" + ONE,
            "1:31: train: no key is named 'stepz'; did you mean steps?",
        ),
        (
            "base:\n  objective: fm\n  train:\n    steps: -1\n" + ONE,
            "4:12: train.steps: input should be greater than 0, got -1",
        ),
        ("base: {objective: fm, train.steps: -1}\n" + ONE, "1:36: train.steps: input should be greater than 0"),
        ("base: {objective: fm, train: {steps: 1e3.}}\n" + ONE, "1:38: train.steps: input should be a valid integer"),
        (
            "base: {objective: fm, train: {lr: .nan}}\n" + ONE,
            "1:35: train.lr: input should be a finite number, got nan",
        ),
        ("base: {objective: fm, seed: 3}\n" + ONE, "1:23: the seed is not part of a config here; use `seeds:`"),
        (
            "base: {objective: {name: esc, velocity: {probb: 1}}}\n" + ONE,
            "1:42: objective.velocity: no setting of plugin is named 'probb'; did you mean prob?",
        ),
        (
            "base: {objective: {name: fm, velocity: {prob: 1}}}\n" + ONE,
            "1:41: objective.velocity: no key is named 'prob'; conditional has no settings",
        ),
        (
            "base: {objective: fm, architecture: {name: sit, size: Q/2}}\n" + ONE,
            "1:55: architecture.size: a SiT size is one of",
        ),
        (
            BASE + "axes: {schedule: [linear, cosine]}",
            "2:27: schedule: no schedule is named 'cosine'; did you mean cosine01 or linear?",
        ),
        (
            BASE + "axes:\n  lr: {path: train.lr, levels: [1e-3, -1.0]}",
            "3:39: train.lr: input should be greater than 0, got -1.0",
        ),
        (
            BASE + "plans: {p: {kind: list, arms: {x: {objective: ctt}}}}",
            "2:47: arm 'x': objective: no objective is named 'ctt'; did you mean ct",
        ),
        # the base and named arms must be legal
        (
            "base: {objective: scd, schedule: cosine01}\naxes: {objective: [ct]}",
            "1:1: the base cannot run: C16 schedule: jumps of a dyadic",
        ),
        (
            BASE + "plans: {p: {kind: list, arms: {x: {objective: scd, schedule: cosine01}}}}",
            "2:32: arm 'x' cannot run: C16 schedule: jumps of a dyadic ladder are defined on straight paths; nearest",
        ),
        # axes
        (BASE + "axes: {e: []}", "2:8: axis 'e' is empty; give it at least one level"),
        (BASE + "axes: {e: {levels: {}}}", "2:8: axis 'e' is empty; give it at least one level"),
        (BASE + "axes: {lr: {path: train.lr, levels: [1e-3, 0.001]}}", "2:44: axis 'lr' has the level '0.001' twice"),
        (
            BASE + "axes: {lr: {path: train.lrr, levels: [1]}}",
            "2:19: train.lrr: no key is named 'lrr'; did you mean lr?",
        ),
        (BASE + "axes: {learning_rate: [1]}", "2:8: axis 'learning_rate' is no part of a config; give it a `path:`"),
        (BASE + "axes: {e: {levels: {off: 0, on: 1}}}", "2:8: axis 'e' is no part of a config; give it a `path:`"),
        (BASE + "axes: {seed: [1, 2]}", "2:8: the seed is not part of a config here; use `seeds:`"),
        # what decides the meaning of a number is no axis, and its kept averages bound what can be sampled
        (
            BASE + "axes: {n: {path: eval.samples, levels: [100]}}",
            "2:41: arm '100' has another eval.samples than the baseline; it decides what the number means; numbers of",
        ),
        (
            BASE + "axes: {n: {levels: {a: {eval.every: 10}}}}",
            "2:37: arm 'a' has another eval.every than the baseline; it says when a trial is measured, not how",
        ),
        (
            BASE + "presets: {few: {eval: {samples: 9}}}\naxes: {n: {levels: {a: {preset: few}}}}",
            "2:33: arm 'a' has another eval.samples than the baseline",
        ),
        (BASE + "axes: {n: {path: eval.gallery, levels: [1, 2]}}", "2:44: levels '1' and '2' of axis 'n' are the same"),
        (
            "base: {objective: meanflow, eval.ema: {sigma_rel: 0.1}}\naxes: {objective: [ct]}",
            "1:1: the base cannot run: C29 eval.ema: a post-hoc average needs snapshots, and this trial keeps none; "
            "nearest: train.snapshot_every: 62",
        ),
        (
            BASE + "axes: {ema: {path: eval.ema, levels: [{sigma_rel: 0.5}]}}",
            "2:51: eval.ema.post_hoc.sigma_rel: input should be less than or equal to 0.28, got 0.5",
        ),
        (
            BASE + "axes: {ema: {path: eval.ema, levels: [long]}}",
            "2:39: eval.ema.decay: input should be a valid number, unable to parse string as a number, got 'long'",
        ),
        (
            BASE + "axes: {nfe: {path: eval.nfe, levels: [1, 2]}}\nmetric: {at: best}",
            "3:14: metric.at: arms that differ in eval alone share a training and are measured when it ends",
        ),
        (
            BASE + "axes: {s: {path: schedule, levels: [linear, cosine01], baseline: cosine01}}",
            "2:66: level 'cosine01' of axis 's' is not what base says; 'linear' is",
        ),
        (
            BASE + "axes: {s: {path: schedule, levels: [linear], baseline: liner}}",
            "2:56: no level of 's' is named 'liner'; did you mean linear?",
        ),
        (
            BASE + "axes: {s: {path: schedule, levels: [linear], label: {x: y}}}",
            "2:54: no level of 's' is named 'x'; there are linear",
        ),
        (
            BASE + "axes: {s: {path: schedule, levels: [linear, cosine01], label: {cosine01: linear}}}",
            "2:74: 'linear' is what two levels are called",
        ),
        (BASE + "axes: {s: {path: schedule, levels: [linear], not_yet: {x: y}}}", "2:56: no level of 's' is named 'x'"),
        (
            BASE + "axes: {s: {path: schedule, levels: [linear], needs: {t: a}}}",
            "2:54: no other axis is named 't'; there are none",
        ),
        (
            BASE + "axes: {s: {path: schedule, levels: [linear], when: \"schedul == 'x'\"}}",
            "2:53: in \"schedul == 'x'\": no key is named 'schedul'",
        ),
        (
            BASE + "axes: {v: {levels: {a: {train.lr: 1e-4}, b: {train.lr: 1e-4}}}}",
            "2:42: levels 'a' and 'b' of axis 'v' are the same config",
        ),
        (BASE + "axes: {v: {levels: {a: {preset: x}}}}", "2:33: no preset is named 'x'; there are none"),
        (
            BASE + "axes: {lr: {path: train.lr, levels: [1e-3, 2e-3], label: {1e-3: a, 0.001: b}}}",
            "2:12: axes.lr: label names the level '0.001' twice",
        ),
        # presets and constraints
        (GRID + "presets: {x: {train.stepz: 1}}", "3:15: train.stepz: no key is named 'stepz'; did you mean steps?"),
        (GRID + "presets: {x: {preset: x}}", "3:11: preset 'x' contains itself"),
        (GRID + "constraints: [{forbid: \"objective == 'x'\"}]", "3:15: constraints.0.because: is required"),
        (GRID + 'constraints: [{forbid: "print(1)", because: x}]', "3:24: a call is not allowed in an expression"),
        (
            GRID + 'constraints: [{forbid: "train.stepz > 1", because: x}]',
            "3:25: in 'train.stepz > 1': no key is named 'stepz'; did you mean steps?",
        ),
        (
            GRID + 'constraints: [{forbid: "train.steps / 0 == 1", because: x}]',
            "3:24: 'train.steps / 0 == 1' cannot be evaluated: division by zero",
        ),
        # plans
        (BASE, "1:1: nothing varies; give `axes:` or a plan with named arms"),
        (
            GRID + "plans: {p: {kind: fractional}}",
            "3:12: plans.p: plan kind 'fractional' does not exist yet; there are list, grid",
        ),
        (
            GRID + "plans: {p: {kind: optuna, n: 3}}",
            "3:12: plans.p: plan kind 'optuna' does not exist yet; there are list, grid",
        ),
        (GRID + "plans: {p: {kind: gird}}", "3:12: plans.p: no plan kind is named 'gird'; did you mean grid?"),
        (GRID + "plans: {p: {axes: [schedule]}}", "3:12: plans.p: a plan needs `kind:`, one of list, grid"),
        (
            GRID + "plans: {p: {kind: grid, axis: [schedule]}}",
            "3:25: plans.p: no key is named 'axis'; did you mean axes?",
        ),
        (
            GRID + "plans: {p: {kind: grid, axes: [shedule]}}",
            "3:32: no axis is named 'shedule'; did you mean schedule?",
        ),
        (GRID + "plans: {p: {kind: grid, axes: [schedule, schedule]}}", "3:42: axis 'schedule' is named twice"),
        (GRID + "plans: {p: {kind: grid, axes: []}}", "3:9: plan 'p' is empty; name at least one axis"),
        (GRID + "plans: {p: {kind: grid, axes: {schedule: []}}}", "3:32: axis 'schedule' is empty here"),
        (
            GRID + "plans: {p: {kind: grid, axes: {schedule: [trig]}}}",
            "3:43: no level of 'schedule' is named 'trig'; there are linear, cosine01",
        ),
        (GRID + "plans: {p: {kind: list, arms: {}}}", "3:9: plan 'p' is empty; name at least one arm"),
        (
            GRID + "plans: {p: {kind: list, arms: {x: {schedul: linear}}}}",
            "3:36: no axis, preset or config key is named 'schedul'; did you mean schedule?",
        ),
        (
            GRID + "plans: {p: {kind: list, arms: {x: {schedule: trig}}}}",
            "3:46: no level of 'schedule' is named 'trig'; there are linear, cosine01",
        ),
        (
            GRID + "plans: {p: {kind: list, arms: {x: {train.stepz: 1}}}}",
            "3:36: train.stepz: no key is named 'stepz'; did you mean steps?",
        ),
        (
            GRID + "plans: {p: {kind: list, arms: {x: {eval.nfe: 2}}}}",
            "3:46: arm 'x' has eval.nfe 2, the baseline 1; if that is meant, list it in fair.except",
        ),
        (GRID + "plans: {p: {kind: list, arms: {x: {not_yet: 3}}}}", "3:45: not_yet: a sentence, got 3"),
        (
            GRID + "plans: {p: {kind: list, arms: {x: {objective: ct}, y: {objective: {name: ct}}}}}",
            "3:52: arm 'y' is the same as arm 'x'; remove one of them",
        ),
        (GRID + "plans: {p: {kind: cumulative, order: []}}", "3:9: plan 'p' is empty; every step names {axis: level}"),
        (
            GRID + "plans: {p: {kind: cumulative, order: [{schedule: trig}]}}",
            "3:50: no level of 'schedule' is named 'trig'",
        ),
        (
            GRID + "plans: {p: {kind: leave_one_out, full: {sched: x}}}",
            "3:41: no axis is named 'sched'; did you mean schedule?",
        ),
        (GRID + "plans: {p: {kind: leave_one_out, full: {}}}", "3:9: plan 'p' is empty"),
        (GRID + "plans: {p: {kind: random, n: 0}}", "3:30: plans.p.n: input should be greater than 0, got 0"),
        (
            GRID + "plans: {p: {kind: leave_one_out, full: {schedule: cosine01}, on_needs: pull_in}}",
            "3:72: plans.p.on_needs: no choice is named 'pull_in'",
        ),
        # names that only the expansion can know
        (GRID + "compare: {baseline: liner}", "3:21: compare.baseline: no arm is named 'liner'; did you mean linear?"),
        (
            GRID + "published: [{arm: x, metric: fid, value: 1, source: y}]",
            "3:19: no arm is named 'x'; there are linear, cosine01",
        ),
        (GRID + "seeds: {extra: {liner: [5]}}", "3:17: no arm is named 'liner'; did you mean linear?"),
        (
            GRID + "metric: fid\nfidelity: {run: a, levels: {b: {}}}",
            "4:17: no fidelity level is named 'a'; there are b",
        ),
        (
            GRID + "fidelity: {levels: {b: {train.stepz: 1}}}",
            "3:25: train.stepz: no key is named 'stepz'; did you mean steps?",
        ),
        (
            GRID + "fidelity: {run: b, levels: {b: {train.steps: -1}}}",
            "3:46: train.steps: input should be greater than 0, got -1",
        ),
        (
            GRID + "fidelity: {run: b, levels: {b: {schedule: linear}}}",
            "3:33: schedule is what axis 'schedule' varies; fidelity 'b' would make its",
        ),
        (
            GRID + 'fidelity: {levels: {b: {per_arm: {"trian.steps > 1": {}}}}}',
            "3:36: in 'trian.steps > 1': no key is named 'trian'; did you mean train?",
        ),
        (GRID + "fidelity: {levels: {b: {per_arm: [1]}}}", "3:20: fidelity.levels: per_arm is a mapping"),
        (GRID + "fair: {match: [train.stepz]}", "3:16: train.stepz: no key is named 'stepz'; did you mean steps?"),
        (GRID + 'resources: {per_arm: {"x > 1": {gpus: 2}}}', "3:24: in 'x > 1': no key is named 'x'"),
        (
            "base: {objective: fm, eval: {metric: fid}}\nmetric: fd_digits\n" + ONE,
            "2:9: metric: fd_digits is compared, but the base measures fid",
        ),
    ],
)
def test_a_mistake_in_a_space_is_one_line_with_its_place(text: str, line: str) -> None:
    (found,) = problems(text)
    assert found.startswith(line), found


def test_all_mistakes_are_found_at_once_in_the_order_of_the_file() -> None:
    axes = "axes:\n  e: []\n  lr: {path: train.lrr, levels: [1]}\n"
    text = BASE + axes + "plans: {p: {kind: grid, axes: [x]}}"
    assert [line.split(" ")[0] for line in problems(text)] == ["3:3:", "4:14:", "5:32:"]
    upside_down = "constraints: [{forbid: train.x > 1, because: y}]\n" + BASE + "axes: {e: []}"
    assert [line.split(" ")[0] for line in problems(upside_down)] == ["1:24:", "3:8:"]
    assert len(problems("base: {objective: fmm, train: {stepz: 1, steps: -1}}\n" + ONE)) == 3


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "bsae: {objective: fm}\n" + ONE,
            ["1:1: no key is named 'bsae'; did you mean base?", "1:1: base: is required"],
        ),
        (
            "base: {objectiv: fm}\n" + ONE,
            ["1:8: no key is named 'objectiv'; did you mean objective?", "1:1: objective: is required"],
        ),
        (
            GRID + "published: [{arm: linear, metric: fid, sorce: y, value: 1}]",
            [
                "3:40: published.0: no key is named 'sorce'; did you mean source?",
                "3:13: published.0.source: is required",
            ],
        ),
    ],
)
def test_a_misspelt_key_comes_before_what_is_missing_by_it(text: str, lines: list[str]) -> None:
    assert problems(text) == lines


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("train.stepz=3",), "--set train.stepz=3: no key is named 'stepz'; did you mean steps?"),
        (("train.steps=-3",), "--set train.steps=-3: train.steps: input should be greater than 0, got -3"),
        (("train.steps",), "--set train.steps: write path=value, e.g. train.steps=200"),
        (("=3",), "--set =3: write path=value"),
        (("seed=3",), "--set seed=3: the seed is not part of a config here"),
        (("schedule=linear",), "--set schedule=linear: axis 'schedule' varies it and its levels would be one"),
        (("train.lr=[",), "--set:1:2: unreadable YAML"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_option(overrides: tuple[str, ...], line: str) -> None:
    (found,) = problems(GRID, overrides)
    assert found.startswith(line), found


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"fidelity": "x"}, "no fidelity level is named 'x'; there are none"),
        ({"plans": ["gird"]}, "no plan is named 'gird'; did you mean grid?"),
        ({"only": ["liner"]}, "only 'liner': no arm is named 'liner'; did you mean linear?"),
        ({"only": ["x*"]}, "only 'x*': no arm is named 'x*'; there are linear, cosine01"),
        ({"seeds": []}, "seeds are distinct numbers from 0, at least one; got []"),
        ({"seeds": [1, 1]}, "seeds are distinct numbers from 0, at least one; got [1, 1]"),
        (
            {"seeds": [2**63]},
            f"seed {2**63} of arm 'linear' is too large to be stored: at most {2**63 - 1}",
        ),
    ],
)
def test_an_argument_that_names_nothing_says_what_there_is(arguments: dict[str, Any], line: str) -> None:
    assert problems(GRID, **arguments) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GRID + "seeds: [0, true]", "3:8: seeds: input should be a number, got true"),
        (GRID + "seeds: {extra: {linear: [true]}}", "3:16: seeds.extra: input should be a number, got true"),
        (GRID + "budget: {trials: true}", "3:18: budget.trials: input should be a number, got true"),
        (GRID + "stop: {loss_above: true}", "3:20: stop.loss_above: input should be a number, got true"),
        (GRID + "plans: {p: {kind: random, n: true}}", "3:30: plans.p.n: input should be a number, got true"),
        ("base: {objective: fm, train: {lr: true}}\n" + ONE, "1:35: train.lr: input should be a number, got true"),
        ("base: {objective: fm, train.ema: [false]}\n" + ONE, "1:35: train.ema.0: input should be a number, got false"),
        (
            "base: {objective: {name: esc, velocity: {prob: false}}}\n" + ONE,
            "1:48: objective.velocity.prob: input should be a number, got false",
        ),
        (
            BASE + "axes: {lr: {path: train.lr, levels: [true, 1e-3]}}",
            "2:38: train.lr: input should be a number, got true",
        ),
        (
            GRID + "fidelity: {run: s, levels: {s: {train.steps: true}}}",
            "3:46: train.steps: input should be a number, got true",
        ),
    ],
)
def test_a_boolean_is_no_number(text: str, line: str) -> None:
    assert problems(text) == [line]


def test_booleans_are_taken_where_they_mean_something() -> None:
    text = "base: {objective: fm, train: {compile: true}, architecture: {name: sit, size: tiny/4, qk_norm: true}}\n"
    plan = expand(space_from_text(text + ONE + "\nseeds: {list: [0], paired: true}\nstop: {nan: true}"))
    assert plan.arms[0].config.train.compile


def test_a_grid_of_millions_is_refused_before_it_is_walked() -> None:
    levels = ", ".join(str(i) for i in range(1, 12))
    axes = "\n".join(
        f"  a{i}: {{path: train.{f}, levels: [{levels}]}}"
        for i, f in enumerate(("lr", "steps", "grad_clip", "weight_decay"))
    )
    (found,) = problems(BASE + f"axes:\n{axes}\nfair: {{except: [train.steps]}}")
    assert "plan 'grid' has 14,641 cells, more than 10,000; use kind: random" in found


def test_a_missing_space_names_the_nearest_built_in_one() -> None:
    for name, message in [
        ("objectivs", "objectivs: no such file, and no built-in space is named 'objectivs'; did you mean objectives?"),
        ("folder/x.yaml", "folder/x.yaml: no such file"),
    ]:
        with pytest.raises(SpaceError) as caught:
            load_space(name)
        assert str(caught.value) == message


def test_no_text_makes_anything_but_a_space_error() -> None:
    """Seeded mutations of a real space: characters dropped, doubled, exchanged; lines removed or indented."""
    text = (
        GRID
        + "plans: {p: {kind: list, arms: {x: {objective: ct}}}, g: {kind: grid}}\n"
        + "seeds: {list: [0, 1]}\nmetric: {mode: min}\n"
    )
    generator = random.Random(1)
    refused: list[SpaceError] = []
    for _ in range(150):
        broken = list(text)
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(broken))
            broken[at] = generator.choice(["", broken[at] * 2, ":", "{", "]", "\t", "\n", " ", "-1", "&a", "!x", "x"])
        try:
            expand(space_from_text("".join(broken)))
        except SpaceError as error:
            refused.append(error)
    assert len(refused) > 50
    assert all(line and "\n" not in line for error in refused for line in error.problems)


def test_a_size_sets_its_own_fields_of_eval_and_not_the_one_that_varies() -> None:
    level = "fidelity: {levels: {full: {eval: {samples: 99%s}}}}\n"
    space = "base: {objective: meanflow}\naxes: {steps: {path: eval.nfe, levels: [1, 2]}}\n"
    assert len(expand(space_from_text(space + level % ""), fidelity="full").evaluations) == 6
    (found,) = problems(space + level % ", nfe: 4", fidelity="full")
    assert "eval.nfe is what axis 'steps' varies" in found


def test_an_unknown_preset_on_the_command_line_is_one_line() -> None:
    with pytest.raises(SpaceError, match=r"--set preset=q: no preset is named 'q'; there are none"):
        expand(space_from_text(GRID, overrides=("preset=q",)))
