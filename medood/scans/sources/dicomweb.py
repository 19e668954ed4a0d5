"""A PACS by DICOMweb: which instances it has (QIDO-RS), their bytes (WADO-RS), and objects stored back (STOW-RS).

``dicomweb+https://HOST/ROOT?Modality=DX&StudyDate=20260101-`` are the instances that match; behind the question mark stand
DICOM keywords and their values (PS3.18 section 8.3.4). Credentials come from the environment alone, never from an address:
``MEDOOD_DICOMWEB_TOKEN``, or ``MEDOOD_DICOMWEB_USER`` and ``MEDOOD_DICOMWEB_PASSWORD``. TLS certificates are verified;
``REQUESTS_CA_BUNDLE`` names those of a hospital's own authority. ``MEDOOD_DICOMWEB_RATE`` is the most requests a second that
a process makes. ``medood[pacs]`` installs what it needs.
"""

from __future__ import annotations

import io
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pydicom
from pydicom.datadict import keyword_dict

from medood.errors import MedoodError
from medood.scans.scan import RefusedError, Status, UnavailableError

PREFIX = "dicomweb+"
TOKEN, USER, PASSWORD, RATE = (f"MEDOOD_DICOMWEB_{name}" for name in ("TOKEN", "USER", "PASSWORD", "RATE"))
_PAGE = 500
_TRIES = 4
#: Between them, twice this, four times, eight times.
_PAUSE_MILLISECONDS = 1000
#: What a server, or what stands before it, answers when it is not there for anybody.
_DOWN = (429, 502, 503, 504)
_TIMEOUT = (10.0, 120.0)
_LOCAL = ("127.0.0.1", "localhost", "::1")
_UIDS = ("0020000D", "0020000E", "00080018")  # study, series, instance
T = TypeVar("T")


def is_dicomweb(source: object) -> bool:
    """True where a source is the address of a PACS."""
    return str(source).startswith(PREFIX)


def check_address(address: str) -> None:
    """Find a mistake in an address before anything is asked.

    Raises:
        MedoodError: the address makes no sense, or dicomweb-client is missing.
    """
    _client(_parsed(address)[0])


def find_instances(address: str) -> Iterator[str]:
    """The addresses of the instances that match, in the order of the PACS; an instance's own address stands for itself.

    Raises:
        MedoodError: the address makes no sense.
        UnavailableError: the PACS does not answer, or refuses.
    """
    root, query = _parsed(address)
    if "/instances/" in root:
        yield address
        return
    client, offset, before = _client(root), 0, list[str]()
    while True:
        search = partial(client.search_for_instances, search_filters=dict(query), limit=_PAGE, offset=offset)
        try:
            page = [_address(root, instance) for instance in _asked(root, search)]
        except (RefusedError, KeyError, IndexError, TypeError) as error:
            why = error.reason if isinstance(error, RefusedError) else "it does not name study, series and instance"
            raise MedoodError(f"The search at {root} failed: {why}. Check the address behind {PREFIX}.") from error
        if not page or page == before:  # the latter where a server knows no offset
            return
        yield from page
        before, offset = page, offset + len(page)


def _address(root: str, instance: dict[str, Any]) -> str:
    study, series, uid = (str(instance[tag]["Value"][0]) for tag in _UIDS)
    return f"{PREFIX}{root}/studies/{study}/series/{series}/instances/{uid}"


def fetch(address: str) -> bytes:
    """One instance as the bytes of a DICOM file.

    Raises:
        RefusedError: the PACS has no such object, or sends something else.
        UnavailableError: it does not answer, or refuses.
    """
    root, _ = _parsed(address)
    root, _, rest = root.partition("/studies/")
    study, _, series, _, uid = rest.split("/")
    dataset = _asked(root, lambda: _client(root).retrieve_instance(study, series, uid))
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def store(address: str, datasets: Iterable[pydicom.Dataset]) -> Iterator[str]:
    """Store objects, one at a time.

    Yields:
        for each an empty text, or why the PACS did not take it.

    Raises:
        UnavailableError: the PACS does not answer, or refuses.
    """
    root, _ = _parsed(address)
    client = _client(root)
    for dataset in datasets:
        try:
            answer = _asked(root, partial(client.store_instances, [dataset]))
        except RefusedError as refused:
            yield refused.reason
            continue
        failed = answer.get("FailedSOPSequence") or []
        yield f"failure reason {failed[0].get('FailureReason', 'not stated')}" if failed else ""


def _parsed(address: str) -> tuple[str, list[tuple[str, str]]]:
    """The service's root without the prefix, and the search's keywords and values."""
    example = "Expected dicomweb+https://HOST/ROOT?Modality=DX."
    try:
        parts = urlsplit(address.removeprefix(PREFIX))
        rate = float(os.environ.get(RATE) or 0)
    except ValueError as error:
        raise MedoodError(f"{address} is no address of a PACS, or {RATE} no number. {example}") from error
    whole = re.fullmatch(r".*/studies/[0-9.]+/series/[0-9.]+/instances/[0-9.]+", parts.path)
    if rate < 0 or ("/studies" in parts.path and not whole) or parts.path.count("/studies") > 1:
        raise MedoodError(f"{address} is neither a service's root nor one instance, or {RATE} is below 0. {example}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MedoodError(f"{address} is no address of a PACS. {example}")
    if parts.username or parts.password:
        raise MedoodError(f"The address of {parts.hostname} holds a name or password. Put them into {USER} and {PASSWORD}.")
    query = parse_qsl(parts.query, keep_blank_values=True)
    for keyword, _ in query:
        if keyword not in keyword_dict:
            raise MedoodError(f"{keyword!r} in the address of {parts.hostname} is no DICOM keyword. {example}")
        if "Patient" in keyword and keyword not in ("PatientSex", "PatientAge"):
            raise MedoodError(f"{keyword} would stand in the ledger and in reports as it is. Search by something else.")
    if parts.scheme == "http" and parts.hostname not in _LOCAL and (os.environ.get(TOKEN) or os.environ.get(USER)):
        raise MedoodError(f"Credentials would go to {parts.hostname} unencrypted. Use https.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", query


@lru_cache(maxsize=8)
def _client(root: str) -> Any:
    try:
        from dicomweb_client.api import DICOMwebClient
        from requests import Session
        from requests.auth import HTTPBasicAuth
    except ImportError as error:
        raise MedoodError(
            "A PACS as a source needs dicomweb-client, which is not installed. Install medood[pacs]."
        ) from error
    logging.getLogger("retrying").setLevel(logging.CRITICAL)  # it would print tracebacks of what is tried again
    session = Session()
    token, user = os.environ.get(TOKEN), os.environ.get(USER)
    if token:
        session.headers["Authorization"] = f"Bearer {token}"
    elif user:
        session.auth = HTTPBasicAuth(user.encode(), os.environ.get(PASSWORD, "").encode())
    client = DICOMwebClient(root, session=session, timeout=_TIMEOUT)
    client.set_http_retry_params(
        max_attempts=_TRIES,
        wait_exponential_multiplier=_PAUSE_MILLISECONDS,
        retriable_error_codes=(408, 429, 500, 502, 503, 504),
    )
    return client


def _asked(root: str, ask: Callable[[], T]) -> T:
    """The answer of a PACS; what goes wrong said so that a person knows whether one object is concerned, or all."""
    from requests import HTTPError, RequestException
    from requests.exceptions import ChunkedEncodingError
    from retrying import RetryError

    _wait()
    host = urlsplit(root).netloc
    try:
        return ask()
    except RetryError as error:  # after every try
        answer = error.last_attempt.value
        if answer.status_code in _DOWN:
            raise UnavailableError(f"{host} answers {answer.status_code} {answer.reason} alone") from error
        raise RefusedError(Status.UNREADABLE, f"the PACS answered {answer.status_code} {answer.reason}") from error
    except HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in (401, 403):
            why = f"{host} refuses access ({code}). Renew the credentials ({TOKEN}, or {USER} and {PASSWORD})"
            raise UnavailableError(why) from error
        raise RefusedError(Status.UNREADABLE, f"the PACS answered {code}") from error
    except ChunkedEncodingError as error:  # on every try
        raise RefusedError(Status.UNREADABLE, "the PACS's answer breaks off") from error
    except RequestException as error:
        raise UnavailableError(f"{host} does not answer ({type(error).__name__})") from error
    except MedoodError:
        raise
    except Exception as error:  # pydicom and the client raise many kinds on what is no DICOM object
        raise RefusedError(Status.UNREADABLE, "the PACS's answer is no whole DICOM object") from error


_last = [0.0]


def _wait() -> None:
    """Keep to the requests a second that this process may make (``MEDOOD_DICOMWEB_RATE``)."""
    rate = float(os.environ.get(RATE) or 0)
    if rate > 0:
        time.sleep(max(0.0, _last[0] + 1.0 / rate - time.monotonic()))
        _last[0] = time.monotonic()
