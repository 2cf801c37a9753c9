"""A space expands into exactly the arms, memberships, skips and trials that it declares."""

from __future__ import annotations

import json
import random
from typing import Any

from ablate.space import Plan, expand, space_from_text
from ablate.space.candidates import candidates
from ablate.space.levels import Levels
from ablate.space.schema import RandomPlan

SHORT = """
base: {objective: meanflow}
axes: {objective: [ct, scd], schedule: [linear, cosine01]}
"""

ESC = """
base: {objective: meanflow}
axes:
  plug:
    levels:
      off: {}
      p05: {objective.velocity: {name: plugin, prob: 0.5}}
      p10: {objective.velocity: {name: plugin, prob: 1}}
    label: {p05: half}
  cc: {path: objective.batching, levels: [iid, class_consistent], needs: {plug: [p05, p10]}}
  gradual: {levels: {off: {}, on: {objective.time_sampler: {name: esc_gradual, zero_steps: 10}}}}
"""


def plan(text: str, **arguments: Any) -> Plan:
    return expand(space_from_text(text, overrides=arguments.pop("overrides", ())), **arguments)


def labels(found: Plan) -> list[str]:
    return [arm.label for arm in found.arms]


def members(found: Plan, name: str) -> list[tuple[int, str]]:
    places = [m for arm in found.arms for m in arm.memberships if m.plan == name]
    return sorted((m.position, m.label) for m in places)


def choices(found: Plan) -> dict[str, dict[str, str]]:
    return {arm.label: arm.choice for arm in found.arms}


def test_a_level_that_chooses_a_component_comes_before_one_of_its_parts_in_any_order_of_the_axes() -> None:
    """Else esc would have taken back the velocity that its arm is named by, and two arms would have been one."""
    axes = {
        "vel": "vel: {path: objective.velocity, levels: [conditional, {name: plugin, prob: 0.5}]}",
        "objective": "objective: [meanflow, esc]",
    }
    found = {}
    for order in (("vel", "objective"), ("objective", "vel")):
        made = plan("base: {objective: meanflow}\naxes:\n" + "".join(f"  {axes[a]}\n" for a in order))
        found[order] = {frozenset(arm.choice.items()): arm.config.resolved() for arm in made.arms}
        assert len(made.arms) == 4
        for arm in made.arms:
            velocity = arm.config.resolved()["objective"]["velocity"]["name"]
            assert velocity == ("plugin" if "plugin" in arm.choice["vel"] else "conditional")
    assert found["vel", "objective"] == found["objective", "vel"]


def test_a_cell_of_which_two_levels_say_different_things_is_left_out_with_the_reason() -> None:
    text = "base: {objective: meanflow}\naxes:\n  a: {path: train.lr, levels: [2e-3, 1e-3]}\n"
    made = plan(text + "  b: {levels: {same: {}, fast: {train.lr: 5e-3}}}\n")
    assert sorted(labels(made)) == ["0.001/same", "0.002/same"]
    assert {(skip.label, skip.reason) for skip in made.skips} == {
        (f"{a}/fast", f"refused: a={a} and b=fast both set train.lr, to different values") for a in ("0.002", "0.001")
    }
    agreeing = plan(text + "  b: {levels: {same: {}, slow: {train.lr: 1e-3}}}\n")
    assert "0.001/slow" not in {skip.label for skip in agreeing.skips}


def test_data_of_ones_own_is_planned_without_a_word_on_its_evaluation() -> None:
    made = plan(
        "base: {objective: meanflow, data: {name: image_folder, path: /tmp}}\naxes: {schedule: [linear, cosine01]}"
    )
    assert labels(made) == ["linear", "cosine01"]
    assert made.metric.name == made.baseline.config.eval.metric


# -- the short form


def test_the_short_form_is_a_complete_space() -> None:
    found = plan(SHORT)
    assert labels(found) == ["base", "ct/linear", "ct/cosine01", "scd/linear"]
    assert [s.label for s in found.skips] == ["scd/cosine01"]
    assert {trial.seed for trial in found.trials} == {0, 1, 2}
    assert len(found.trials) == 12
    assert found.baseline.config.data.name == "digits"
    assert found.metric.name == "fd_digits"


def test_the_short_and_the_long_form_make_the_same_trials() -> None:
    long = """
ablate: 1
name: other
base:
  schedule: {name: linear}
  objective: {name: meanflow}
  architecture: {name: sit, size: tiny/4}
  data: {name: digits}
  train: {steps: 1000, batch_size: 64, lr: 0.002, betas: [0.9, 0.99], ema: [0.99]}
  eval: {metric: fd_digits, samples: 2000}
axes:
  objective: {path: objective, levels: [{name: ct}, {name: scd}]}
  schedule: {levels: {linear: {schedule: linear}, cosine01: {schedule: {name: cosine01}}}}
plans: {grid: {kind: grid, axes: [objective, schedule]}}
seeds: {list: [0, 1, 2], paired: true}
"""
    assert [t.key for t in plan(SHORT).trials] == [t.key for t in plan(long).trials]
    assert [t.eval_key for t in plan(SHORT).trials] == [t.eval_key for t in plan(long).trials]


def test_a_base_that_is_a_level_takes_the_name_of_its_cell() -> None:
    found = plan("base: {objective: ct}\naxes: {objective: [ct, fm], schedule: [linear, cosine01]}")
    assert found.baseline.label == "ct/linear"
    assert labels(found) == ["ct/linear", "ct/cosine01", "fm/linear", "fm/cosine01"]
    assert found.warnings == ()


def test_a_base_that_is_no_level_is_an_arm_beside_the_grid_and_says_so() -> None:
    (warning,) = plan(SHORT).warnings
    assert "no level of axis 'objective' is what base says" in warning


def test_toy_data_gets_its_own_metric_and_another_metric_its_own_sample_count() -> None:
    points = plan("base: {objective: fm, data: gaussians, architecture: mlp}\naxes: {schedule: [linear, cosine01]}")
    assert points.metric.name == "energy_distance"
    fid = plan("base: {objective: fm}\nmetric: fid\naxes: {schedule: [linear, cosine01]}")
    assert (fid.metric.name, fid.baseline.config.eval.samples) == ("fid", 50_000)


def test_a_divergence_bound_of_the_space_reaches_the_trials() -> None:
    found = plan(SHORT + "stop: {kind: diverged, loss_above: 12.5}")
    assert {trial.config.train.diverged_above for trial in found.trials} == {12.5}


# -- kinds of plans


def test_a_list_plan_keeps_names_and_order_and_names_the_base() -> None:
    found = plan(
        "base: {objective: meanflow}\nplans: {p: {kind: list, arms: {B: {objective: ct}, MF: {}, A: {train.lr: 1e-4}}}}"
    )
    assert members(found, "p") == [(0, "B"), (1, "MF"), (2, "A")]
    assert found.baseline.label == "MF"


def test_one_name_for_two_arms_in_two_plans_is_told_apart_by_the_plan() -> None:
    found = plan(
        "base: {objective: meanflow}\n"
        "plans: {p: {kind: list, arms: {x: {objective: ct}}}, q: {kind: list, arms: {x: {objective: fm}, y: {}}}}"
    )
    assert labels(found) == ["y", "x", "q.x"]
    assert found.arm("q.x").config.objective.name == "fm"


def test_a_grid_over_named_levels_takes_only_those() -> None:
    found = plan(SHORT + "plans: {g: {kind: grid, axes: {objective: [ct], schedule: [cosine01]}}}")
    assert members(found, "g") == [(0, "ct/cosine01")]


def test_one_factor_at_a_time_varies_each_axis_around_the_base() -> None:
    found = plan(ESC + "plans: {o: {kind: ofat}}")
    assert members(found, "o") == [(0, "base"), (1, "half"), (2, "plug=p10"), (4, "gradual=on")]
    assert [(s.plan, s.label) for s in found.skips] == [("o", "cc=class_consistent")]
    assert found.skips[0].reason == "cc=class_consistent needs plug to be p05 or p10"
    by_label = {arm.label: arm.memberships[-1] for arm in found.arms}
    assert (by_label["half"].axis, by_label["half"].level, by_label["half"].baseline_label) == ("plug", "p05", "base")


def test_a_needed_level_is_pulled_in_where_the_plan_says_so() -> None:
    found = plan(ESC + "plans: {o: {kind: ofat, on_needs: pull_in}}")
    assert choices(found)["cc=class_consistent"] == {"plug": "p05", "cc": "class_consistent"}
    assert not found.skips


def test_one_axis_alone_gives_its_levels_bare_names() -> None:
    found = plan("base: {objective: fm}\naxes: {objective: [fm, ct]}\nplans: {o: {kind: ofat}}")
    assert labels(found) == ["fm", "ct"]


WALK = "plans: {w: {kind: cumulative, order: [{plug: p05}, {cc: class_consistent}, {gradual: on}]}}"


def test_a_cumulative_walk_adds_one_part_after_the_other() -> None:
    found = plan(ESC + WALK)
    assert members(found, "w") == [
        (0, "base"),
        (1, "+half"),
        (2, "+half +cc=class_consistent"),
        (3, "+half +cc=class_consistent +gradual=on"),
    ]
    compared = {m.label: m.baseline_label for arm in found.arms for m in arm.memberships if m.plan == "w"}
    assert list(compared.values()) == [None, "base", "+half", "+half +cc=class_consistent"]


def test_a_step_whose_need_comes_later_is_skipped_and_the_next_is_compared_with_the_one_before() -> None:
    found = plan(ESC + "plans: {w: {kind: cumulative, order: [{gradual: on}, {cc: class_consistent}, {plug: p05}]}}")
    assert [s.label for s in found.skips] == ["+gradual=on +cc=class_consistent"]
    last = found.arms[-1]
    assert last.choice == {"plug": "p05", "cc": "class_consistent", "gradual": "on"}
    assert last.memberships[-1].baseline_label == "+gradual=on"


def test_a_step_that_changes_nothing_is_skipped() -> None:
    found = plan(ESC + "plans: {w: {kind: cumulative, order: [{plug: off}, {plug: p05}]}}")
    assert [(s.label, s.reason) for s in found.skips] == [("+plug=off", "the same as base: it changes nothing")]
    assert found.arms[-1].memberships[-1].baseline_label == "base"


def test_leave_one_out_takes_each_part_from_the_full_combination() -> None:
    full = "{plug: p05, cc: class_consistent, gradual: on}"
    found = plan(ESC + f"plans: {{l: {{kind: leave_one_out, full: {full}, on_needs: drop_dependents}}}}")
    assert members(found, "l") == [
        (0, "full"),
        (1, "-half, -cc"),
        (2, "-cc=class_consistent"),
        (3, "-gradual=on"),
    ]
    assert choices(found)["-half, -cc"] == {"gradual": "on"}
    assert {m.baseline_label for arm in found.arms for m in arm.memberships if m.plan == "l" and m.position > 0} == {
        "full"
    }


def test_leave_one_out_reports_what_cannot_be_left_out() -> None:
    found = plan(ESC + "plans: {l: {kind: leave_one_out, full: {plug: p05, cc: class_consistent}}}")
    assert [s.label for s in found.skips] == ["-half"]


def test_a_random_plan_is_the_same_for_the_same_seed_and_grows_from_its_beginning() -> None:
    def drawn(n: int, seed: int) -> list[str]:
        text = ESC + f"plans: {{r: {{kind: random, n: {n}, seed: {seed}}}}}"
        return [label for _, label in members(plan(text), "r")]

    assert drawn(5, 7) == drawn(5, 7)
    assert drawn(5, 7) == drawn(9, 7)[:5]
    assert len(set(drawn(9, 7))) == 9
    assert any(drawn(5, 7) != drawn(5, seed) for seed in range(8, 12))


def test_a_random_plan_says_when_fewer_combinations_exist_than_it_asks_for() -> None:
    found = plan(ESC + "plans: {r: {kind: random, n: 50}}")
    assert len(members(found, "r")) == 10  # 3 x 2 x 2, less class-consistent batches without the plug-in
    assert any("asks for 50 arms; only 10 distinct ones can run" in w for w in found.warnings)
    assert any("2 drawn combinations cannot run" in w for w in found.warnings)


def test_a_random_plan_draws_every_combination_about_equally_often() -> None:
    levels = Levels(space_from_text(ESC))
    counts: dict[tuple[int, str], int] = {}
    for seed in range(600):
        drawn = list(candidates("r", RandomPlan(kind="random", n=1, seed=seed), levels))
        assert len({cell.label for cell in drawn}) == 12
        for cell in drawn:
            counts[cell.position, cell.label] = counts.get((cell.position, cell.label), 0) + 1
    assert len(counts) == 144
    assert all(20 <= n <= 85 for n in counts.values())  # 50 expected; five standard deviations either way


# -- de-duplication, conditional axes, constraints


def test_an_arm_that_serves_several_plans_is_one_arm_with_several_places() -> None:
    found = plan(ESC + WALK[:-1] + ", p: {kind: list, arms: {A2: {plug: p05}, same: {}}}, o: {kind: ofat}}")
    arm = found.arm("A2")
    assert [(m.plan, m.label) for m in arm.memberships] == [("w", "+half"), ("p", "A2"), ("o", "half")]
    assert arm.label == "A2"
    assert len({t.key for t in found.trials}) == len(found.trials)


CONDITIONAL = """
base: {objective: fm}
axes:
  objective: {levels: {fm: {}, imm: {objective: {name: imm, parameterization: {sigma_data: 1}}}}}
  group: {path: objective.time_sampler.group, levels: [4, 8], when: "objective.time_sampler == 'imm_eta'"}
"""


def test_an_inactive_axis_collapses_before_anything_is_counted() -> None:
    found = plan(CONDITIONAL)
    assert labels(found) == ["fm/4", "imm/4", "imm/8"]
    assert choices(found)["fm/4"] == {"objective": "fm"}


def test_one_factor_at_a_time_says_why_an_inactive_level_is_no_arm() -> None:
    (skip,) = plan(CONDITIONAL + "plans: {o: {kind: ofat, axes: [group]}}").skips
    assert skip.reason.startswith("the same as base: axis 'group' is inactive there (when:")


def test_a_forbidden_combination_is_shown_with_its_reason_and_not_run() -> None:
    constraint = "constraints: [{forbid: \"objective == 'ct' and schedule == 'cosine01'\", because: not today}]"
    found = plan(SHORT + constraint)
    assert ("grid", "ct/cosine01", "not today") in [(s.plan, s.label, s.reason) for s in found.skips]
    assert "ct/cosine01" not in labels(found)


def test_an_illegal_cell_of_a_grid_is_skipped_with_the_rule_and_the_nearest_legal_choice() -> None:
    (skip,) = plan(SHORT).skips
    assert skip.reason.startswith("C16 ")
    assert "schedule: linear" in skip.reason


def test_a_part_that_does_not_exist_yet_is_declared_shown_and_refused() -> None:
    text = """
base: {objective: meanflow}
axes: {schedule: {levels: [linear, cosine01, trig], not_yet: {trig: the path does not exist yet}}}
plans:
  g: {kind: grid}
  p: {kind: list, arms: {X: {objective.velocity: oracle, not_yet: no such estimate}, Y: {objective: ct}}}
published: [{arm: X, metric: fid, value: 6.0, source: a paper}]
"""
    found = plan(text)
    assert [(s.label, s.reason) for s in found.skips] == [
        ("trig", "the path does not exist yet"),
        ("X", "no such estimate"),
    ]
    assert labels(found) == ["linear", "cosine01", "Y"]
    assert found.published[0]["arm"] == "X"


def test_levels_that_only_fail_together_are_a_skip_and_not_a_mistake() -> None:
    text = """
base: {objective: {name: imm, parameterization: {sigma_data: 1}}}
axes:
  end: {path: objective.time_sampler.t_max, levels: [0.994, 0.4]}
  start: {path: objective.time_sampler.t_min, levels: [0.0, 0.5]}
"""
    found = plan(text)
    assert [s.label for s in found.skips] == ["0.4/0.5"]
    assert found.skips[0].reason.startswith("refused: objective.time_sampler")


# -- seeds, fidelity, filters


def test_extra_seeds_go_to_the_arm_they_name() -> None:
    found = plan(SHORT + "seeds: {list: [0, 1], extra: {base: [7], ct/linear: [8, 0]}}")
    seeds = {arm.label: [t.seed for t in found.trials if t.arm_id == arm.id] for arm in found.arms}
    assert seeds == {"base": [0, 1, 7], "ct/linear": [0, 1, 8], "ct/cosine01": [0, 1], "scd/linear": [0, 1]}


def test_seeds_given_from_outside_replace_the_spaces() -> None:
    found = plan(SHORT + "seeds: {list: [0, 1], extra: {base: [7]}}", seeds=[5])
    assert {t.seed for t in found.trials} == {5}


def test_unpaired_seeds_are_shared_by_no_two_arms() -> None:
    found = plan(SHORT + "seeds: {list: [0, 1], paired: false}")
    assert len({t.seed for t in found.trials}) == len(found.trials) == 8


FIDELITY = """
fidelity:
  run: short
  levels:
    short: {train.steps: 20, per_arm: {"objective == 'ct'": {objective.label_dropout: 0.5}}}
    full: {}
"""


def test_fidelity_is_laid_over_every_arm_after_its_own_overrides() -> None:
    found = plan(SHORT + FIDELITY)
    assert found.fidelity == "short"
    assert {t.config.train.steps for t in found.trials} == {20}
    assert {t.config.train.steps for t in plan(SHORT + FIDELITY, fidelity="full").trials} == {1000}


def test_a_fidelity_can_size_some_arms_differently_by_what_they_are() -> None:
    found = plan(SHORT + FIDELITY)
    dropout = {arm.label: arm.config.objective.label_dropout for arm in found.arms}
    assert dropout == {"base": 0.1, "ct/linear": 0.5, "ct/cosine01": 0.5, "scd/linear": 0.1}


def test_set_comes_last_is_recorded_and_changes_the_keys() -> None:
    found = plan(SHORT + FIDELITY, overrides=["train.steps=30", "train.lr=1e-5"])
    assert {(t.config.train.steps, t.config.train.lr) for t in found.trials} == {(30, 1e-5)}
    assert found.overrides == ("train.steps=30", "train.lr=1e-5")
    assert not {t.key for t in found.trials} & {t.key for t in plan(SHORT + FIDELITY).trials}


def test_only_gives_trials_to_the_arms_that_match() -> None:
    found = plan(SHORT, only=["ct/*"])
    assert {found.arm(t.arm_id).label for t in found.trials} == {"ct/linear", "ct/cosine01"}
    assert found.baseline in found.arms
    assert {t.arm_id for t in plan(SHORT, only=["base"]).trials} == {found.baseline.id}
    assert {t.arm_id for t in plan(SHORT, only=["grid.scd*"]).trials} == {found.arm("scd/linear").id}


def test_chosen_plans_leave_the_others_out() -> None:
    text = ESC + WALK[:-1] + ", p: {kind: list, arms: {X: {train.lr: 0.01}}}}"
    assert labels(plan(text, plans=["p"])) == ["base", "X"]


def test_the_baseline_may_be_any_arm_and_is_called_by_any_of_its_names() -> None:
    for name in ("cosine01", "grid.cosine01"):
        found = plan(f"base: {{objective: fm}}\naxes: {{schedule: [linear, cosine01]}}\ncompare: {{baseline: {name}}}")
        assert found.baseline.label == "cosine01"


def test_a_base_that_is_in_no_plan_and_no_baseline_is_not_run() -> None:
    text = "base: {objective: meanflow}\nplans: {p: {kind: list, arms: {x: {objective: ct}, y: {objective: fm}}}}\n"
    assert labels(plan(text + "compare: {baseline: y}")) == ["x", "y"]
    assert labels(plan(text)) == ["base", "x", "y"]


# -- the plan as data


def test_a_plan_is_plain_json_and_the_same_every_time() -> None:
    text = ESC + WALK
    assert json.dumps(plan(text).to_dict()) == json.dumps(plan(text).to_dict())
    assert json.loads(json.dumps(plan(text).to_dict()))["baseline"] == plan(text).baseline.id


def test_a_published_number_stands_under_the_label_of_its_arm() -> None:
    row = "{arm: grid.ct/linear, metric: fid, value: 18.12, source: a paper}"
    (published,) = plan(SHORT + f"published: [{row}]").published
    assert published == {"arm": "ct/linear", "metric": "fid", "value": 18.12, "source": "a paper"}


def test_more_trials_than_the_budget_is_a_warning() -> None:
    more = "12 trials are more than the budget of 5: `ablate run` refuses to start"
    assert any(warning.startswith(more) for warning in plan(SHORT + "budget: {trials: 5}").warnings)


def test_any_union_of_plans_has_one_arm_per_config_and_one_trial_per_arm_and_seed() -> None:
    """Seeded random spaces: whatever plans are joined, arms and trials are sets and every cell is accounted for."""
    generator = random.Random(0)
    kinds = {
        "w": "{kind: cumulative, order: [{plug: p05}, {cc: class_consistent}, {gradual: on}], on_needs: pull_in}",
        "l": "{kind: leave_one_out, full: {plug: p10, gradual: on}}",
        "o": "{kind: ofat, on_needs: pull_in}",
        "g": "{kind: grid}",
        "r": "{kind: random, n: 4, seed: 3}",
        "p": "{kind: list, arms: {A: {plug: p10}, B: {gradual: on, train.lr: 0.01}, C: {}}}",
    }
    for _ in range(10):
        chosen = generator.sample(sorted(kinds), generator.randint(1, len(kinds)))
        found = plan(ESC + "plans: {" + ", ".join(f"{k}: {kinds[k]}" for k in chosen) + "}")
        assert len({arm.id for arm in found.arms}) == len(found.arms)
        assert len(set(labels(found))) == len(found.arms)
        assert len({t.key for t in found.trials}) == len(found.trials) == 3 * len(found.arms)
        assert {m.plan for arm in found.arms for m in arm.memberships} == {"base", *chosen}
        if "g" in chosen:
            assert len(members(found, "g")) + sum(s.plan == "g" for s in found.skips) == 12


def test_a_claim_that_a_report_would_not_understand_is_a_warning_before_anything_is_trained() -> None:
    claims = "claims: [cosine01 is better than linear., {beter: [cosine01, linear]}, foo is better than linear., '']"
    text = "base: {objective: meanflow}\naxes: {schedule: [linear, cosine01]}\n"
    first, second, third = plan(text + claims).warnings
    assert first.startswith("claim 2 is not understood: a claim has no key 'beter'; its keys are better, worse")
    assert second.startswith("claim 3 is not understood: no arm or level is called 'foo'; there are ")
    assert third.startswith("claim 4 is not understood: a claim reads 'A is better than B.'")


def test_a_claim_on_arms_that_were_filtered_out_is_no_warning() -> None:
    axes = "base: {objective: meanflow}\naxes: {schedule: [linear, cosine01]}\n"
    plans = "plans: {one: {kind: ofat}, more: {kind: list, arms: {A: {train.lr: 3e-3}}}}\n"
    space = space_from_text(axes + plans + "claims: [A is better than linear.]")
    assert expand(space).warnings == expand(space, only=["linear"]).warnings == ()
    assert expand(space, plans=["one"]).warnings == ()


RATES = "base: {objective: meanflow, train.lr: 1e-3}\naxes: {lr: {path: train.lr, levels: [1e-3, 2e-3]}}\n"


def test_a_level_is_found_under_the_spelling_that_its_number_has_in_the_file() -> None:
    about = "label: {1e-3: slow, 2e-3: fast}, not_yet: {3e-3: later}, baseline: 1e-3"
    found = plan(RATES.replace("2e-3]", f"2e-3, 3e-3], {about}"))
    assert labels(found) == ["slow", "fast"]
    assert [(skip.label, skip.reason) for skip in found.skips] == [("0.003", "later")]


def test_an_arm_is_found_under_the_spelling_that_its_number_has_in_the_file() -> None:
    for name in ("2e-3", "'2e-3'", "0.0020", "lr=2e-3"):
        assert plan(RATES + f"compare: {{baseline: {name}}}").baseline.label == "0.002"
    more = "seeds: {list: [0], extra: {2e-3: [7]}}\npublished: [{arm: 2e-3, metric: fid, value: 2, source: x}]"
    found = plan(RATES + more, only=["2e-3"])
    assert [trial.seed for trial in found.trials] == [0, 7]
    assert found.published[0]["arm"] == "0.002"
    crossed = RATES.replace("axes: {", "axes: {schedule: [linear, cosine01], ")
    assert [t.seed for t in plan(crossed + "seeds: [3]", only=["cosine01/2e-3"]).trials] == [3]


def test_an_arm_that_is_called_by_a_number_as_written_is_meant_first() -> None:
    arms = "plans: {p: {kind: list, arms: {slow: {}, 0.002: {train.lr: 5e-3}, 2e-3: {lr: 2e-3}}}}\n"
    found = plan(RATES + arms + "compare: {baseline: '2e-3'}\nseeds: {list: [0], extra: {2e-3: [7]}}")
    assert found.baseline.label == "2e-3"
    assert found.baseline.config.train.lr == 2e-3
    assert [t.config.train.lr for t in found.trials if t.seed == 7] == [2e-3]
