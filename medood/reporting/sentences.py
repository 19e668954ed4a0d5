"""Results of a run in words: its calibration, the archive as a whole, and the findings of a scan."""

from __future__ import annotations

from typing import Any

from medood.evidence.findings import Finding
from medood.reporting.i18n.language import ENGLISH, Language


def run_sentences(facts: dict[str, Any], language: Language = ENGLISH) -> list[str]:
    """What the ledger's facts say of the calibration and of the archive as a whole, for a person."""
    said = []
    calibration, rate = facts["calibration"], facts.get("true_rate")
    named = {"name": calibration["name"], "scans": calibration["scans"]}
    if not rate:
        said.append(language.say("calibration", **named))
    else:
        told = language.say("true rate", **named, low=rate[0], high=rate[1])
        said.append(f"{told} {language.say('in the smallest stratum')}" if calibration["by"] else told)
    if facts.get("uncalibrated"):
        said.append(language.say("uncalibrated", count=facts["uncalibrated"], by=", ".join(calibration["by"])))
    seen = facts.get("seen_before") or {}
    for name, sentence in (("calibration", "calibration scans screened"), ("training", "training scans screened")):
        if seen.get(name):
            said.append(language.say(sentence, count=seen[name]))
    whole = facts.get("whole") or {}
    shift, trend = whole.get("shift"), whole.get("drift")
    if shift:
        name = "archive differs" if shift["p_value"] <= 0.01 else "archive does not differ"
        values = {key: shift[key] for key in ("statistic", "archive", "reference")}
        said.append(language.say(name, p=shift["p_value"], **values))
    if trend:
        name = "later fit less" if trend["correlation"] < 0 else "later fit better"
        name = name if trend["p_value"] <= 0.01 else "no drift"
        said.append(language.say(name, correlation=trend["correlation"], p=trend["p_value"], scans=trend["scans"]))
    return said


def finding_sentence(finding: Finding, language: Language = ENGLISH) -> str:
    """The sentence of a finding."""
    values = {
        key: language.say(value) if isinstance(value, str) and key != "stated" else value
        for key, value in finding.values.items()
    }
    return language.say(finding.name, **values)
