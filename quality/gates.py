"""Gates: what the tables of a build must satisfy before a release, run by Great Expectations on columns in memory.

Counts of what is wrong are kept, failing values never: a gate's result may leave the machine, a patient's text may not.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from medloom.quality import gate_rows
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, MedloomError
from medloom.schemas.keys import KEY_PATTERN
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.origin import TERMS
from medloom.schemas.shard import BLOCK

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

log = logging.getLogger(__name__)
KEY = f"^{KEY_PATTERN.pattern}$"
SPLIT = "^[a-z0-9_]+$"  # Hugging Face takes no other split names than words


@dataclass(frozen=True)
class Suite:
    """What one table must satisfy.

    Attributes:
        table: its name in the result.
        rows: reads it from a build, with no more columns than are looked at; derived columns hold cross-row facts.
        expectations: of Great Expectations, each with a `description` that reads as the passing statement;
            severity "critical" fails the gate, "warning" and "info" only annotate.
    """

    table: str
    rows: Callable[[Build], pa.Table]
    expectations: tuple["Expectation", ...]


@dataclass(frozen=True)
class Finding:
    """The outcome of one expectation; `observed` is a number or nothing, so that no value of a table is kept.

    Attributes:
        outcome: "pass", "fail", or "error" when it could not be decided (a missing column, an unreadable table).
        unexpected_count: rows that break it; 0 where rows are not counted.
        says: the passing statement, or for an error its kind.
    """

    table: str
    expectation: str
    column: str
    severity: str
    outcome: Literal["pass", "fail", "error"]
    unexpected_count: int
    observed: float | None
    says: str


@dataclass(frozen=True)
class GateResult:
    """What the gate found; `success` is whether nothing critical failed and nothing went wrong."""

    success: bool
    rows: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """What keeps the gate shut."""
        return tuple(row for row in self.rows if _shuts(row))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"success": self.success, "rows": [asdict(row) for row in self.rows]}


def _shuts(row: Finding) -> bool:
    return row.outcome == "error" or (row.outcome == "fail" and row.severity == "critical")


def run_gate(build: Build, suites: Sequence[Suite] | None = None) -> GateResult:
    """Return what `suites` (None: `default_suites()`) find in the tables of a build.

    Raises:
        ConfigError: Great Expectations is not installed.
    """
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas("build")
    found: list[Finding] = []
    for suite in default_suites() if suites is None else suites:
        found += _run_suite(source, suite, build)
    result = GateResult(not any(_shuts(row) for row in found), tuple(found))
    log.info("gate: %d expectations, %d keep it shut", len(found), len(result.failed))
    return result


def _great_expectations() -> Any:
    try:
        import great_expectations
    except ImportError as fault:
        raise ConfigError(
            "the gate needs Great Expectations, which is not installed: pip install 'medloom[spark]'"
        ) from fault
    return great_expectations


def _run_suite(source: Any, suite: Suite, build: Build) -> list[Finding]:
    import great_expectations as gx

    try:
        frame = suite.rows(build).to_pandas()
    except (OSError, KeyError, ValueError, pa.ArrowException, MedloomError) as fault:
        return [Finding(suite.table, "read", "", "critical", "error", 0, None, f"not readable: {type(fault).__name__}")]
    asset = source.add_dataframe_asset(suite.table)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    expectations = gx.ExpectationSuite(name=suite.table, expectations=list(suite.expectations))
    results = batch.validate(expectations, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    found = [_finding(suite.table, result) for result in results.results]
    order = {expectation.description: place for place, expectation in enumerate(suite.expectations)}
    return sorted(found, key=lambda finding: (order.get(finding.says, len(order)), finding.column))


def _finding(table: str, result: "ExpectationValidationResult") -> Finding:
    config = result.expectation_config
    assert config is not None
    kwargs = config.kwargs
    columns = kwargs.get("column_list") or [kwargs.get(n) for n in ("column", "column_A", "column_B")]
    error = _error_of(result.exception_info or {})
    observed = result.result.get("observed_value")
    return Finding(
        table=table,
        expectation=config.type,
        column=", ".join(c for c in columns if c),
        severity=str(getattr(config.severity, "value", config.severity)),
        outcome="error" if error else "pass" if result.success else "fail",
        unexpected_count=int(result.result.get("unexpected_count") or 0),
        observed=float(observed) if isinstance(observed, (int, float)) else None,
        says=error or config.description or "",
    )


def _error_of(exception_info: dict[str, Any]) -> str:
    """Return what went wrong, "" for nothing; the information is flat or keyed by metric (1.24)."""
    entries = [exception_info] if "raised_exception" in exception_info else list(exception_info.values())
    messages = [e.get("exception_message") or "an exception" for e in entries if e.get("raised_exception")]
    if any("does not exist" in m for m in messages):
        return "the column is missing"
    return "it could not be decided" if messages else ""


def default_suites() -> tuple[Suite, ...]:
    """Return what every build must satisfy.

    Raises:
        ConfigError: Great Expectations is not installed.
    """
    _great_expectations()
    return (
        Suite("article", _columns("article", "article_key", "licence_code", "terms_id", "source_digest"), _article()),
        Suite("figure", gate_rows.figures, _figure()),
        Suite("mention", gate_rows.mentions, _mention()),
        Suite("series", _columns("series", "unit", "terms_id", "key_id"), _series()),
        Suite("group", gate_rows.groups, _group()),
        Suite("index", gate_rows.members, _index()),
        Suite("medium", gate_rows.media, _medium()),
        Suite("example", gate_rows.examples, _example()),
        Suite("unit", gate_rows.units, _unit()),
        Suite("build", gate_rows.whole, _whole()),
    )


def _columns(table: str, *columns: str) -> Callable[[Build], pa.Table]:
    return lambda build: build.table(table, list(columns))


def _article() -> tuple["Expectation", ...]:
    return (
        *_unique_key("article_key"),
        *_present("terms_id", "source_digest"),
        _in("terms_id", TERMS, "its terms are a row of the table of terms"),
        _expect("ColumnValuesToNotBeNull", "every article states a licence", column="licence_code", severity="warning"),
    )


def _figure() -> tuple["Expectation", ...]:
    return (
        *_present("article_key", "fig_key"),
        _expect("ColumnValuesToBeUnique", "no two rows have the same fig_key", column="fig_key"),
        _zero("odd_media", "the keys of its media have the form of a key"),
        _expect("ColumnValueLengthsToBeBetween", "it has a caption", column="caption", min_value=1, severity="warning"),
    )


def _mention() -> tuple["Expectation", ...]:
    return (
        *_present("article_key", "par_id", "start", "end"),
        _ordered("start", "end", "start is not after end"),
        _zero("without_words", "it has words; an empty xref has none", severity="warning"),
        _expect("ColumnValuesToBeBetween", "offsets count from 0", column="start", min_value=0),
        _zero("outside_text", "it ends inside its paragraph's text"),
        _zero("wrong_text", "its words are those at its offsets"),
        _zero("unknown_figures", "the figures it cites are in `figure`"),
    )


def _series() -> tuple["Expectation", ...]:
    return (
        *_unique_key("unit"),
        *_present("terms_id", "key_id"),
        _in("terms_id", TERMS, "its terms are a row of the table of terms"),
    )


def _group() -> tuple["Expectation", ...]:
    return (
        *_unique_key("unit"),
        *_present("group", "split", "source"),
        _expect("ColumnValuesToMatchRegex", "a split's name is a word", column="split", regex=SPLIT),
        _expect(
            "ColumnValuesToBeBetween", "no group is in two splits", column="splits_of_group", min_value=1, max_value=1
        ),
    )


def _index() -> tuple["Expectation", ...]:
    return (
        *_present("key", "field", "unit", "group", "split", "layout", "offset", "size", "crc32c", "terms_id", "source"),
        _expect("ColumnValuesToMatchRegex", "a key is 1 to 64 of a-z, 0-9, _ and -", column="key", regex=KEY),
        _expect("CompoundColumnsToBeUnique", "a member stands once in the build", column_list=["key", "field"]),
        _in("layout", LAYOUTS, "its layout is a known one"),
        _in("terms_id", TERMS, "its terms are a row of the table of terms"),
        _expect("ColumnValuesToBeBetween", "no member is empty", column="size", min_value=1),
        _zero("offset_in_block", f"members start at multiples of {BLOCK} bytes"),
        _zero("other_split_than_plan", "its unit, group and split are those of the plan"),
    )


def _medium() -> tuple["Expectation", ...]:
    return (
        *_unique_key("key"),
        _expect(
            "ColumnPairValuesToBeEqual", "it has the fields of its layout", column_A="fields", column_B="layout_fields"
        ),
    )


def _example() -> tuple["Expectation", ...]:
    return (
        *_unique_key("example_id", regex="^[a-z0-9_-]+$"),
        *_present("unit", "group", "split", "task", "language", "generator", "source", "terms_id"),
        _in("terms_id", TERMS, "its terms are a row of the table of terms"),
        _expect("ColumnValuesToBeBetween", "it has turns", column="n_turns", min_value=1),
        _zero("empty_turns", "no turn is without parts"),
        _zero("missing_media", "every medium it refers to is in the index"),
        _zero("other_split_than_plan", "its unit, group and split are those of the plan"),
    )


def _unit() -> tuple["Expectation", ...]:
    return (
        _expect("TableRowCountToBeBetween", "something was planned", min_value=1),
        *_unique_key("unit"),
        _expect(
            "ColumnValuesToBeBetween", "it ends as an article, a medium, an example or a refusal",
            column="n_ends", min_value=1,
        ),
        _zero("unfinished", "its shard is finished"),
        _expect(
            "ColumnPairValuesToBeEqual", "the index holds what the ledger kept", column_A="n_kept", column_B="n_media"
        ),
    )  # fmt: skip


def _whole() -> tuple["Expectation", ...]:
    return (
        _expect(
            "ColumnValuesToBeBetween", "something was kept: an article, a medium or an example",
            column="kept", min_value=1,
        ),
        _zero("units_astray", "ledgers name the units that the plan put into their shards"),
        _zero("unbalanced_shards", "in each shard, in + made = out + refused"),
    )  # fmt: skip


def _expect(kind: str, says: str, *, severity: str = "critical", **arguments: Any) -> "Expectation":
    import great_expectations.expectations as gxe

    made: Expectation = getattr(gxe, f"Expect{kind}")(description=says, severity=severity, **arguments)
    return made


def _unique_key(column: str, regex: str = KEY) -> tuple["Expectation", ...]:
    return (
        *_present(column),
        _expect("ColumnValuesToBeUnique", f"no two rows have the same {column}", column=column),
        _expect("ColumnValuesToMatchRegex", f"{column} has the form of a key", column=column, regex=regex),
    )


def _present(*columns: str) -> tuple["Expectation", ...]:
    return tuple(_expect("ColumnValuesToNotBeNull", f"every row has its {c}", column=c) for c in columns)


def _in(column: str, values: Iterable[str], says: str) -> "Expectation":
    return _expect("ColumnValuesToBeInSet", says, column=column, value_set=sorted(values))


def _zero(column: str, says: str, *, severity: str = "critical") -> "Expectation":
    return _expect("ColumnValuesToBeBetween", says, severity=severity, column=column, min_value=0, max_value=0)


def _ordered(low: str, high: str, says: str) -> "Expectation":
    return _expect("ColumnPairValuesAToBeGreaterThanB", says, column_A=high, column_B=low, or_equal=True)
