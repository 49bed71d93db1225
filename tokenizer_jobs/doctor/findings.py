"""What an examination finds, one line each, and what is to be done about it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "State", "findings_json", "findings_text"]

State = Literal["ok", "missing", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the examination."""

    subject: str
    state: State
    """ok; missing: something does not work; note: works, and there is something to know."""
    detail: str
    remedy: str | None = None
    """The command, or the act, that mends it."""
    is_needed: bool = False
    """Whether the default job, the demo source with the demo codec, cannot run without it."""

    @property
    def is_fatal(self) -> bool:
        """Whether the default job could not run."""
        return self.is_needed and self.state == "missing"


def findings_text(findings: Sequence[Finding]) -> str:
    """The findings as lines of subject, state and detail; then what to do, in order; then whether jobs can run."""
    width = max(len(finding.subject) for finding in findings)
    lines = [f"{finding.subject:<{width}}  {finding.state:<7}  {finding.detail}" for finding in findings]
    return "\n".join([*lines, "", *_to_do_lines(findings), _verdict(findings)])


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same as one object: `findings`, `to_do` in its order, and under `problems` what stops jobs."""
    return {
        "findings": [{**asdict(finding), "is_fatal": finding.is_fatal} for finding in findings],
        "to_do": [{"subject": finding.subject, "remedy": finding.remedy} for finding in _to_do(findings)],
        "problems": [f"{finding.subject}: {finding.detail}" for finding in findings if finding.is_fatal],
    }


def _to_do(findings: Sequence[Finding]) -> list[Finding]:
    """What has a remedy: first what stops jobs, then what does not work, then what may be better."""
    urgency = {"missing": 1, "note": 2, "ok": 3}
    remedied = [finding for finding in findings if finding.remedy is not None]
    return sorted(remedied, key=lambda finding: 0 if finding.is_fatal else urgency[finding.state])


def _to_do_lines(findings: Sequence[Finding]) -> list[str]:
    to_do = _to_do(findings)
    if not to_do:
        return []
    weight = {"missing": "", "note": " (if you want it)", "ok": ""}
    lines = ["what to do, in this order:"]
    for number, finding in enumerate(to_do, start=1):
        lines.append(f"  {number}. {finding.subject}{weight[finding.state]} -> {finding.remedy}")
    return [*lines, ""]


def _verdict(findings: Sequence[Finding]) -> str:
    fatal = [finding.subject for finding in findings if finding.is_fatal]
    if fatal:
        return f"jobs cannot run here before this is mended: {', '.join(fatal)}"
    return "the default job can run here: tokenizer-jobs run configs/quickstart.yaml"
