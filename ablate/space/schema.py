"""`Space`: the space file, schema version 1, as pydantic. Short forms become long forms here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ablate.space.booleans import WANTED, booleans, takes_numbers_only
from ablate.space.source import Source
from ablate_core.plugins import check_name

SCHEMA_VERSION = 1
PER_ARM = "per_arm"
Overrides = dict[str, Any]
LARGEST_SEED = 2**63 - 1
"""Tables of the store keep seeds in 64 bits: a larger one would train and could never be read back."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
MAX_SEEDS = 10_000
"""More seeds than this are a slip of the keyboard."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
LONGEST_NAME = 80
OnNeeds = Literal["skip", "pull_in", "drop_dependents"]
LATER_KINDS = ("fractional", "optuna")
"""Plan kinds that the design names and this version does not have."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


def _no_boolean(value: Any) -> Any:
    """A value of a field of numbers, in which pydantic would take ``true`` for 1."""
    if (given := next(booleans(value), None)) is not None:
        raise ValueError(f"{WANTED} {str(given[1]).lower()}")
    return value


class Numbers(Part):
    """A part whose numbers are no booleans."""

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        only = takes_numbers_only(cls.model_fields[str(info.field_name)].annotation)
        return _no_boolean(value) if only else value


def _level_name(value: Any) -> Any:
    """A level may be named by its value; see `levels.level_text`."""
    from ablate.space.levels import level_text

    return value if value is None or isinstance(value, str) else level_text(value)


Name = Annotated[str, BeforeValidator(_level_name, json_schema_input_type=str | float | bool)]
"""The name of an arm, which may be that of a level and is then written like the level."""


class Axis(Part):
    """One thing that varies. Written ``[a, b]`` for short: the path is then the axis' own name."""

    path: str | None = Field(None, description="dotted path of the config that the levels are values of")
    levels: list[Any] | dict[str, Any] = Field(
        description="values, or level -> value (with `path`), or level -> overrides (`preset:` names a preset)"
    )
    baseline: Annotated[str | None, BeforeValidator(_level_name, json_schema_input_type=Any)] = Field(
        None, description="the level that equals base; default: the one that does"
    )
    label: dict[str, str] = Field({}, description="level -> how it is called in tables and figures")
    when: str | None = Field(None, description="expression on the config; false: the axis is inactive and collapses")
    needs: dict[str, list[Any]] = Field({}, description="other axis -> its levels that this axis' levels require")
    not_yet: dict[str, str] = Field({}, description="level -> why it cannot run yet; shown and refused")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, list | dict | Axis):
            raise ValueError(f"an axis is a list of levels, [a, b], or a mapping with `levels:`, got {value!r}")
        return {"levels": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _spelled(self) -> Self:
        """Levels under their names, however their numbers are written: ``1e-3`` is ``0.001``."""
        from ablate.space.levels import axis_levels, respelled

        known = {level.name for level in axis_levels("", self)}

        def name(given: str) -> str:
            return respelled(given) if given not in known and respelled(given) in known else given

        for field in ("label", "not_yet"):
            said: dict[str, str] = getattr(self, field)
            spelled = {name(given): words for given, words in said.items()}
            if len(spelled) < len(said):
                twice = next(n for n in spelled if sum(name(given) == n for given in said) > 1)
                raise ValueError(f"{field} names the level {twice!r} twice")
            self.__dict__[field] = spelled
        self.__dict__["baseline"] = None if self.baseline is None else name(self.baseline)
        return self

    @field_validator("needs", mode="before")
    @classmethod
    def _one_level(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {axis: levels if isinstance(levels, list) else [levels] for axis, levels in value.items()}


class Constraint(Part):
    """A combination that is never run, and why; the reason is shown beside the cell."""

    forbid: str = Field(description="safe expression on the resolved config, e.g. schedule == 'cosine01'")
    because: str = Field(min_length=1)


class ListPlan(Part):
    """Named arms, in the order of the table they make."""

    kind: Literal["list"]
    arms: dict[str, Overrides | None] = Field(
        description="arm -> {axis: level, preset: name, dotted.path: value, not_yet: reason}"
    )


class GridPlan(Part):
    """Every combination of the levels."""

    kind: Literal["grid"]
    axes: list[str] | dict[str, list[Any]] | None = Field(None, description="default: all axes; axis -> some levels")


class OfatPlan(Part):
    """One factor at a time around the baseline."""

    kind: Literal["ofat"]
    axes: list[str] | dict[str, list[Any]] | None = Field(None, description="default: all axes; axis -> some levels")
    on_needs: OnNeeds = "skip"


class LeaveOneOutPlan(Part):
    """The full combination, and the full combination without each of its parts."""

    kind: Literal["leave_one_out"]
    full: dict[str, Any] = Field(description="axis -> level")
    on_needs: Literal["skip", "drop_dependents"] = "skip"


class CumulativePlan(Part):
    """A walk from the baseline: +A, +A+B, +A+B+C."""

    kind: Literal["cumulative"]
    order: list[dict[str, Any]] = Field(description="steps, each {axis: level}")
    on_needs: OnNeeds = "skip"


class RandomPlan(Part):
    """`n` distinct legal combinations, the same ones for the same seed."""

    kind: Literal["random"]
    n: int = Field(gt=0)
    seed: int = Field(0, ge=0)
    axes: list[str] | dict[str, list[Any]] | None = Field(None, description="default: all axes; axis -> some levels")

    _numbers = field_validator("n", "seed", mode="before")(_no_boolean)  # `kind` can have no such validator


AnyPlan = ListPlan | GridPlan | OfatPlan | LeaveOneOutPlan | CumulativePlan | RandomPlan
KINDS = tuple(str(get_args(kind.model_fields["kind"].annotation)[0]) for kind in get_args(AnyPlan))


class Seeds(Numbers):
    """Repeats of every arm. Written ``3`` or ``[0, 1, 2]`` for short."""

    list_: list[Seed] = Field([0, 1, 2], alias="list", min_length=1)
    paired: bool = Field(True, description="the same seeds in every arm, so differences are paired")
    extra: dict[str, list[Seed]] = Field({}, description="arm -> further seeds")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(f"a number of seeds is at least 1, got {value}")
            if value > MAX_SEEDS:
                raise ValueError(f"a number of seeds is at most {MAX_SEEDS:,}, got {value}")
            return {"list": list(range(value))}
        if not isinstance(value, list | dict | Seeds):
            raise ValueError(f"seeds are a number, a list of numbers, or a mapping with `list:`, got {value!r}")
        return {"list": value} if isinstance(value, list) else value

    @field_validator("list_")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds are distinct, got {seeds}")
        return seeds


class AtStep(Numbers):
    step: int = Field(gt=0)


class MetricChoice(Part):
    """The number the study is about. Written ``fid`` for short."""

    name: str | None = Field(None, description="default: eval.metric of the base")
    mode: Literal["min", "max"] = "min"
    at: Literal["last", "best"] | AtStep = "last"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, str | dict | MetricChoice):
            raise ValueError(f"a metric is a name, or a mapping with `mode:` and `at:`, got {value!r}")
        return {"name": value} if isinstance(value, str) else value


class Fidelity(Part):
    """Named sizes of the same study: overrides laid over the base and every arm, after their own."""

    run: str | None = Field(None, description="the level that runs when none is asked for")
    levels: dict[str, Overrides | None] = Field(
        {}, description="level -> overrides; `per_arm: {expression: overrides}` only where the expression holds"
    )

    @field_validator("levels", mode="before")
    @classmethod
    def _mappings(cls, levels: Any) -> Any:
        for level in levels.values() if isinstance(levels, dict) else ():
            inner = (level or {}).get(PER_ARM, {}) if isinstance(level, dict | None) else {}
            if not isinstance(inner, dict) or not all(isinstance(part, dict) for part in inner.values()):
                raise ValueError(f"{PER_ARM} is a mapping: expression on the config -> overrides")
        return levels


class Stop(Numbers):
    """The only stop allowed across arms: divergence, which is a result."""

    kind: Literal["diverged"] = "diverged"
    nan: Literal[True] = True
    loss_above: float | None = Field(None, gt=0, description="sets train.diverged_above")


class Fair(Part):
    """What must be equal in every arm unless it is what the study varies."""

    match: list[str] = ["train.steps", "train.batch_size", "eval.samples", "eval.nfe"]
    except_: list[str] = Field([], alias="except", description="paths of `match` that may differ")
    on_mismatch: Literal["error", "warn"] = "error"


class Budget(Numbers):
    gpu_hours: float | None = Field(None, gt=0)
    cpu_hours: float | None = Field(None, gt=0)
    trials: int | None = Field(None, gt=0)
    on_exhausted: Literal["finish_running", "stop"] = "finish_running"


class Resources(Numbers):
    """What one trial is given."""

    gpus: float | None = Field(None, ge=0)
    cpus: float | None = Field(None, gt=0)
    gpu_mem: str | None = None
    pack: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None, description="trainings of equal shapes that share a process: at most N, or as many as help (auto)"
    )
    per_arm: dict[str, dict[str, Any]] = Field({}, description="expression on the config -> other resources")
    retries: dict[Literal["oom", "crash", "preempt"], Annotated[int, Field(ge=0)] | Literal["unlimited"]] = {}
    timeout: str | int | None = None


class Compare(Numbers):
    """How arms are compared; reports read it."""

    baseline: Name = Field("base", description="an arm; base is the config everything starts from")
    margin: float = Field(0.02, gt=0, description="relative difference that would matter")
    alpha: float = Field(0.05, gt=0, lt=1)
    intervals: Literal["dunnett"] = Field("dunnett", description="simultaneous intervals, the only ones there are")

    @field_validator("intervals", mode="before")
    @classmethod
    def _computed(cls, value: Any) -> Any:
        if value in ("bonferroni", "none"):  # words that were taken once and changed nothing
            raise ValueError(f"{value} is not computed, reports have simultaneous intervals (dunnett); remove the key")
        return value


class Published(Numbers):
    """A number somebody else reported for an arm; shown beside, never mixed into a comparison."""

    arm: Name
    metric: str
    value: float
    source: str
    note: str | None = None


class PublishedTable(Part):
    """Numbers of a table that ships with the program: `ablate published` lists them."""

    table: str = Field(description="the table's name")
    arms: dict[str, str] = Field(min_length=1, description="arm -> the table's entry")


def _kind_of_published(value: Any) -> str:
    table = "table" in value if isinstance(value, dict) else isinstance(value, PublishedTable)
    return (PublishedTable if table else Published).__name__


AnyPublished = Annotated[
    Annotated[Published, Tag("Published")] | Annotated[PublishedTable, Tag("PublishedTable")],
    Discriminator(_kind_of_published),
]


class Space(Numbers):
    """A design space: what is the baseline, what varies, which combinations run, how they are compared."""

    ablate: int = Field(SCHEMA_VERSION, description="version of this schema")
    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    question: str | None = Field(None, description="what the study answers, in one sentence")
    extends: str | list[str] = Field([], description="other space files laid below this one, the last one on top")
    plugins: list[Annotated[str, AfterValidator(check_name)]] = Field(
        [], description="modules that define components, as in an import, e.g. my_lab.paths; imported before the rest"
    )
    base: Overrides = Field(description="the baseline config; only `objective` is required")
    presets: dict[str, Overrides] = Field({}, description="named partial overrides")
    axes: dict[str, Axis] = {}
    constraints: list[Constraint] = []
    plans: dict[str, Annotated[AnyPlan, Field(discriminator="kind")]] = Field(
        {}, description="the run is their union; default: one grid over all axes"
    )
    seeds: Seeds = Seeds()
    metric: MetricChoice = MetricChoice()
    fidelity: Fidelity = Fidelity()
    stop: Stop = Stop()
    fair: Fair = Fair()
    budget: Budget = Budget()
    resources: Resources = Resources()
    compare: Compare = Compare()
    claims: list[str | dict[str, Any]] = Field([], description="what the study sets out to show, before it runs")
    published: list[AnyPublished] = Field([], description="numbers of others, or one table of them")

    _source: Source = PrivateAttr()
    _overrides: tuple[str, ...] = PrivateAttr(default=())
    _loaded: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("ablate")
    @classmethod
    def _version(cls, version: int) -> int:
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema version {version} is not known; this program reads version {SCHEMA_VERSION}")
        return version

    @field_validator("plugins", mode="before")
    @classmethod
    def _one_plugin(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("published", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @property
    def source(self) -> Source:
        """The text it was read from, with the places of everything in it."""
        return self._source

    @property
    def overrides(self) -> tuple[str, ...]:
        """``--set`` overrides, laid over every arm last."""
        return self._overrides

    @property
    def loaded(self) -> tuple[str, ...]:
        """Every plug-in that was loaded before it was read, its own `plugins` among them; workers import them too."""
        return self._loaded

    def plans_or_grid(self) -> dict[str, AnyPlan]:
        """The declared plans, or the grid that stands for none."""
        return dict(self.plans) or {"grid": GridPlan(kind="grid")}
