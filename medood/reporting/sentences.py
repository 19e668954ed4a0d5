"""Results of a run in words: its calibration, the archive as a whole, and the findings of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medood.reporting.i18n.language import ENGLISH, Language
from medood.screening.ledger.run_metadata import RunMetadata

if TYPE_CHECKING:
    from medood.evidence.findings import Finding

#: Largest p-value at which an archive is said to differ from the calibration scans.
DIFFERS = 0.01


def run_sentences(metadata: RunMetadata, language: Language = ENGLISH) -> list[str]:
    """Sentences on the calibration of a run and on the archive as a whole."""
    lines = []
    calibration, rate = metadata.calibration, metadata.fpr_interval
    calibration_values = {"name": calibration.name, "scans": calibration.scans}
    if not rate:
        lines.append(language.say("calibration", **calibration_values))
    else:
        rate_sentence = language.say("true rate", **calibration_values, low=rate[0], high=rate[1])
        lines.append(f"{rate_sentence} {language.say('in the smallest stratum')}" if calibration.by else rate_sentence)
    if metadata.uncalibrated:
        lines.append(language.say("uncalibrated", count=metadata.uncalibrated, by=", ".join(calibration.by)))
    screened_before = metadata.seen_before or {}
    for name, sentence in (("calibration", "calibration scans screened"), ("training", "training scans screened")):
        if screened_before.get(name):
            lines.append(language.say(sentence, count=screened_before[name]))
    shift, trend = (metadata.archive.shift, metadata.archive.drift) if metadata.archive else (None, None)
    if shift:
        name = "archive differs" if shift.p_value <= DIFFERS else "archive does not differ"
        values = {"statistic": shift.statistic, "archive": shift.archive, "reference": shift.reference}
        lines.append(language.say(name, p=shift.p_value, **values))
    if trend:
        name = "later fit less" if trend.correlation < 0 else "later fit better"
        name = name if trend.p_value <= 0.01 else "no drift"
        lines.append(language.say(name, correlation=trend.correlation, p=trend.p_value, scans=trend.scans))
    return lines


def finding_sentence(finding: Finding, language: Language = ENGLISH) -> str:
    """A finding as a sentence."""
    values = {
        key: language.say(value) if isinstance(value, str) and key != "stated" else value
        for key, value in finding.values.items()
    }
    return language.say(finding.name, **values)
