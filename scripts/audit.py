"""Look up every locked package in PyPI's advisories: exit 1 on findings; say plainly what could not be looked up.

A machine without a way to the advisories passes, with a warning; ``--strict`` makes it fail.
"""

from __future__ import annotations

import json
import subprocess
import sys

LOCKS = ("requirements.lock", "requirements-dev.lock")
TIMEOUT = 60
"""Seconds for one lock file."""


def report_of(lock: str) -> list[dict[str, object]] | str:
    """pip-audit's entry for each package, or why there is none."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter and arguments
            [*command, "--format", "json", "--requirement", lock],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        dependencies: list[dict[str, object]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT} s"
    except (ValueError, KeyError):
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    return dependencies


def main() -> int:
    findings, unknown = 0, 0
    for lock in LOCKS:
        report = report_of(lock)
        if isinstance(report, str):
            unknown += 1
            print(f"audit: {lock}: NOT AUDITED, the advisories cannot be reached: {report}")
            continue
        skipped = [entry["name"] for entry in report if "skip_reason" in entry]
        for entry in report:
            vulnerabilities = entry.get("vulns")
            for each in vulnerabilities if isinstance(vulnerabilities, list) else []:
                findings += 1
                fixed = ", ".join(each["fix_versions"]) or "no release"
                print(f"audit: {lock}: {entry['name']} {entry['version']}: {each['id']}, fixed in {fixed}")
        if skipped:
            unknown += len(skipped)
            print(
                f"audit: {lock}: NOT AUDITED, PyPI's advisories do not answer for {len(skipped)} of {len(report)} packages"
            )
        else:
            print(f"audit: {lock}: {len(report)} packages looked up")
    return 1 if findings or (unknown and "--strict" in sys.argv[1:]) else 0


if __name__ == "__main__":
    sys.exit(main())
