"""What is said of metrics is what there is: the table of the docs, and every expression of the dashboard."""

import json
import re

from tests.tokenizer_jobs.conftest import REPOSITORY
from tokenizer_jobs.cluster.metrics import METRICS
from tokenizer_jobs.cluster.retry import Failure

DOCUMENT = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((REPOSITORY / "deploy" / "grafana.json").read_text(encoding="utf-8"))

SELECTOR = re.compile(r"(\w+)\{(\w+)=~\"\$output\"\}")


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `ray_(tokenizer_jobs_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", tags)), text) for name, kind, tags, text in rows}
    assert documented == {facts.name: (facts.kind, facts.tags, facts.summary) for facts in METRICS.values()}


def test_names_tell_kind_and_tags_are_few() -> None:
    for facts in METRICS.values():
        assert facts.name.endswith("_total") == (facts.kind == "counter")
        assert set(facts.tags) <= {"output", "encoder", "node", "stage", "reason", "cause", "state"}


def test_the_dashboard_asks_for_metrics_and_tags_that_exist() -> None:
    known = {f"ray_{facts.name}": facts for facts in METRICS.values()}
    shown = set()
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            names = re.findall(r"ray_tokenizer_jobs_\w+", expression)
            assert names, expression
            assert expression.count("(") == expression.count(")")
            for name in names:
                facts = known[name.removesuffix("_bucket")]
                assert ("rate(" + name in expression or "increase(" + name in expression) == (facts.kind != "gauge")
                grouped = set(re.findall(r"by \((\w+)\)", expression)) - {"le"}
                assert grouped <= set(facts.tags), expression
                shown.add(facts.name)
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped
    left_out = {METRICS[name].name for name in ("codes_total", "units_total")}  # they follow rows and audio
    assert shown == {facts.name for facts in METRICS.values()} - left_out
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboard_chooses_among_outputs() -> None:
    (query,) = [variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["name"] == "output"]
    assert query == f"label_values(ray_{METRICS['units_total'].name}, output)"
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            metrics = re.findall(r"ray_tokenizer_jobs_\w+", target["expr"])
            assert [name for name, tag in SELECTOR.findall(target["expr"]) if tag == "output"] == metrics


def test_the_table_of_events_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:info|warning|error|any) \|", DOCUMENT, re.MULTILINE)
    logged = {"message"}
    for path in (REPOSITORY / "tokenizer_jobs").rglob("*.py"):
        logged |= set(re.findall(r'log_event\(\s*_log,\s*logging\.\w+,\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert set(rows) == logged


def test_the_causes_of_retries_are_named() -> None:
    for failure in Failure:
        assert f"`{failure.name.lower()}`" in DOCUMENT
