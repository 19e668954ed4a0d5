"""The schema of a ledger, as the migrations from each version to the next."""

from __future__ import annotations

SCHEMA_VERSION = 4
#: What brings a ledger of one schema version to the next; version 0 is an empty file.
MIGRATIONS = {
    0: (
        "CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE scans (id INTEGER PRIMARY KEY, source TEXT NOT NULL, member TEXT NOT NULL, "
        "frame INTEGER NOT NULL, sha256 TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, score REAL, "
        "p_value REAL, decision TEXT NOT NULL, facts TEXT NOT NULL, read_seconds REAL, score_seconds REAL)",
        "CREATE INDEX scans_by_decision ON scans (decision, score)",
    ),
    1: (
        "ALTER TABLE scans ADD COLUMN file INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE scans ADD COLUMN item INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE scans ADD COLUMN host TEXT NOT NULL DEFAULT ''",
        "UPDATE scans SET file = id",
        "CREATE INDEX scans_by_sha256 ON scans (sha256)",
        "CREATE INDEX scans_by_place ON scans (file, item)",
        "CREATE INDEX scans_by_source ON scans (source)",
        # The tables of medood.screening.archive_statistics.
        "CREATE TABLE sample (sha256 TEXT PRIMARY KEY, month TEXT NOT NULL, p_value REAL NOT NULL, features BLOB NOT NULL)",
        "CREATE TABLE months (month TEXT PRIMARY KEY, scans INTEGER NOT NULL, p_value REAL NOT NULL, "
        "patients INTEGER NOT NULL)",
        "CREATE TABLE patients (month TEXT NOT NULL, patient TEXT NOT NULL, PRIMARY KEY (month, patient))",
    ),
    2: ("ALTER TABLE scans RENAME COLUMN facts TO metadata",),
    3: (
        "ALTER TABLE scans ADD COLUMN reason_code TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE scans ADD COLUMN reason_values TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE scans ADD COLUMN finding TEXT NOT NULL DEFAULT ''",
    ),
}
