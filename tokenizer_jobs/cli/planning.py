"""The command that says what a run would do, `plan`, and its screen."""

import argparse
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.endings import complain
from tokenizer_jobs.cli.facts import Fact, left_alone, on_one_line, shortened, such_as, table
from tokenizer_jobs.cli.flags import as_words, load_job, overrides_in
from tokenizer_jobs.cli.next_steps import command, next_steps
from tokenizer_jobs.wording import audio_text, bytes_text, count_text, counts_text, span_text, speed_text

if TYPE_CHECKING:
    from tokenizer_jobs.results import Calibration, MachineCost, PlanResult

__all__ = ["plan_command", "plan_screen"]


def plan_command(arguments: argparse.Namespace) -> int:
    """Of `plan`.

    Raises:
        ConfigError: the job cannot be done as it is written.
    """
    config = load_job(arguments)
    from tokenizer_jobs.dry_run import PriceList, plan

    prices = None if arguments.price is None else PriceList.load(arguments.price)
    result = plan(config, calibrated=arguments.calibrate, prices=prices)
    run_command = command("run", arguments.config, *as_words(overrides_in(arguments)))
    print(result.model_dump_json() if arguments.json else plan_screen(result, run_command=run_command))
    return complain(result.problems)


_LAYOUTS = {"1": "mono", "2": "stereo", "unknown": "unknown"}


def plan_screen(result: "PlanResult", *, run_command: str) -> str:
    """What a run would do.

    Args:
        result: Of the dry run.
        run_command: Does it.
    """
    known = {"unchanged": result.unchanged_items, "changed": result.changed_items, "vanished": result.vanished_items}
    facts = [
        ("output", result.output),
        (
            "items",
            f"{result.new_items:,} new" + "".join(f", {count:,} {name}" for name, count in known.items() if count),
        ),
        *(_planned_work(result) if result.new_items else ()),
    ]
    facts += [("skipped", counts_text(result.skipped))] if result.skipped else []
    if result.missing_files:
        missing = f"{count_text(result.missing_files, 'file')} of the manifest{such_as(result.missing_ids)}"
        facts.append(("missing", f"{missing}; a reject each"))
    facts += left_alone(
        result.changed_items, result.changed_ids, vanished=result.vanished_items, vanished_ids=result.vanished_ids
    )
    facts += [("duplicates", shortened(result.duplicate_ids))] if result.duplicate_ids else []
    facts += [] if result.calibration is None else _predictions(result.calibration)
    facts += [("cost", _cost(machine)) for machine in result.costs]
    open_units = result.units - result.units_committed
    if result.problems:
        end = ["", "a run would be refused:"]  # the problems follow on stderr
    else:
        end = next_steps(run_command) if open_units else ["", "nothing to do"]
    return "\n".join(["plan (nothing was written)", *table(facts), *end])


def _planned_work(result: "PlanResult") -> list[Fact]:
    rates = {f"{rate} Hz" if rate.isdigit() else rate: hours for rate, hours in result.hours_by_sample_rate.items()}
    layouts = {_LAYOUTS.get(name, f"{name} channels"): hours for name, hours in result.hours_by_channels.items()}
    open_units = result.units - result.units_committed
    unreadable = (
        [("no header", f"{result.unreadable_headers:,} of {result.headers_read:,} could not be read")]
        if result.unreadable_headers
        else []
    )
    filtered = (
        [("filters", f"will reject about: {counts_text(result.expected_filtered)}")] if result.expected_filtered else []
    )
    return [
        ("audio", audio_text(result.hours)),
        ("formats", _hours(result.hours_by_format)),
        ("rates", _hours(rates)),
        ("channels", _hours(layouts)),
        ("longest", f"{on_one_line(result.longest_id or '')}, {span_text(result.longest_seconds)}"),
        *unreadable,
        *filtered,
        ("units", f"{open_units:,} to do, about {span_text(60 * result.unit_minutes)} of audio each"),
        ("codes", f"about {result.expected_codes:,} in {bytes_text(result.expected_bytes)}"),
        ("time", f"about {span_text(result.expected_seconds)} of encoding on this machine alone"),
    ]


def _hours(by_name: dict[str, float]) -> str:
    return ", ".join(f"{name} {audio_text(hours)}" for name, hours in by_name.items()) or "none"


def _predictions(found: "Calibration") -> list[Fact]:
    rates = [
        f"{name} at {speed_text(1 / cost)} per {unit}"
        for name, cost, unit in (
            ("decoding", found.decode_cpu_per_audio_second, "core"),
            ("encoding", found.encode_per_audio_second, "GPU" if found.device == "cuda" else "core"),
        )
        if cost > 0
    ]
    what_if = [f"twice the cores {span_text(found.twice_cores_seconds)}"]
    what_if += [
        f"{count_text(number, 'GPU')} {span_text(seconds)}" if number else f"GPUs no less than {span_text(seconds)}"
        for number, seconds in found.gpus_seconds.items()
    ]
    sample = f"{count_text(found.items, 'item')} ({audio_text(found.audio_seconds / 3600)})"
    return [
        ("sample", f"{sample} took {span_text(found.elapsed_seconds)}: {', '.join(rates)}"),
        (
            "duration",
            f"about {span_text(found.predicted_seconds)} in all{_as_busy(found)}, "
            f"{span_text(found.startup_seconds)} of them around the work; the job waits for {found.bound_stage} most",
        ),
        ("what if", ", ".join(what_if)),
        ("assuming", "; ".join(found.assumptions)),
    ]


def _as_busy(found: "Calibration") -> str:
    """What other work on the machine makes of the duration, where that is worth saying."""
    if found.alone_seconds is None or found.alone_seconds > 0.9 * found.predicted_seconds:
        return ""
    return f" on this machine as busy as it is now (no less than {span_text(found.alone_seconds)} with it to itself)"


def _cost(machine: "MachineCost") -> str:
    name = f"{machine.name}, this machine" if machine.is_this_machine else machine.name
    if machine.seconds is None or machine.cost is None:
        return f"{name}: this machine cannot tell; calibrate on one of that kind"
    return f"{name}: {machine.cost:,.2f} {machine.currency} for {span_text(machine.seconds)}"
