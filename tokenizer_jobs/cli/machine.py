"""The command that looks at the machine, `doctor`."""

import argparse
import json

from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED

__all__ = ["doctor_command"]


def doctor_command(arguments: argparse.Namespace) -> int:
    """Of `doctor`."""
    from tokenizer_jobs.doctor import examine, findings_json, findings_text

    findings = examine()
    print(json.dumps(findings_json(findings)) if arguments.json else findings_text(findings))
    return EXIT_FAILED if any(finding.is_fatal for finding in findings) else EXIT_DONE
