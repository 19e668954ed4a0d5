"""Access a PACS by DICOMweb: find instances (QIDO-RS), retrieve them (WADO-RS), and store objects (STOW-RS).

``dicomweb+https://HOST/ROOT?Modality=DX&StudyDate=20260101-`` stands for the matching instances; DICOM keywords and their
values follow the question mark (PS3.18 section 8.3.4). Credentials come only from the environment, never from an address:
``MEDOOD_DICOMWEB_TOKEN``, or ``MEDOOD_DICOMWEB_USER`` and ``MEDOOD_DICOMWEB_PASSWORD``. TLS certificates are verified;
``REQUESTS_CA_BUNDLE`` names those of a hospital's own authority. ``MEDOOD_DICOMWEB_RATE`` limits the requests per second of
a process. ``medood[pacs]`` installs the dependencies.
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
from medood.reasons import Reason
from medood.scans.scan import RefusedError, Status, UnavailableError

PREFIX = "dicomweb+"
TOKEN, USER, PASSWORD, RATE = (f"MEDOOD_DICOMWEB_{name}" for name in ("TOKEN", "USER", "PASSWORD", "RATE"))
_PAGE = 500
_TRIES = 4
#: Base of the pauses between tries: twice this, four times, eight times.
_PAUSE_MILLISECONDS = 1000
#: Status codes with which a server, or a proxy in front of it, reports that it is unavailable to everyone.
_DOWN = (429, 502, 503, 504)
_TIMEOUT = (10.0, 120.0)
_LOCAL = ("127.0.0.1", "localhost", "::1")
_UIDS = ("0020000D", "0020000E", "00080018")  # study, series, instance
T = TypeVar("T")


def is_dicomweb(source: object) -> bool:
    """Return whether a source is the address of a PACS."""
    return str(source).startswith(PREFIX)


def check_address(address: str) -> None:
    """Check an address before any request.

    Raises:
        MedoodError: the address is invalid, or dicomweb-client is missing.
    """
    _client(_parse(address)[0])


def find_instances(address: str) -> Iterator[str]:
    """Yield the addresses of the matching instances, in the order of the PACS; an instance's own address is yielded as is.

    Raises:
        MedoodError: the address is invalid, or the search fails.
        UnavailableError: the PACS does not answer, or refuses access.
    """
    root, query = _parse(address)
    if "/instances/" in root:
        yield address
        return
    client, offset, before = _client(root), 0, list[str]()
    while True:
        search = partial(client.search_for_instances, search_filters=dict(query), limit=_PAGE, offset=offset)
        try:
            page = [_address(root, instance) for instance in _request(root, search)]
        except (RefusedError, KeyError, IndexError, TypeError) as error:
            problem = error.reason if isinstance(error, RefusedError) else "it does not name study, series and instance"
            raise MedoodError(f"The search at {root} failed: {problem}. Check the address behind {PREFIX}.") from error
        if not page or page == before:  # the latter if a server ignores the offset
            return
        yield from page
        before, offset = page, offset + len(page)


def _address(root: str, instance: dict[str, Any]) -> str:
    study, series, uid = (str(instance[tag]["Value"][0]) for tag in _UIDS)
    return f"{PREFIX}{root}/studies/{study}/series/{series}/instances/{uid}"


def fetch(address: str) -> bytes:
    """Retrieve one instance as the bytes of a DICOM file.

    Raises:
        RefusedError: the PACS has no such object, or sends something else.
        UnavailableError: it does not answer, or refuses access.
    """
    root, _ = _parse(address)
    root, _, rest = root.partition("/studies/")
    study, _, series, _, uid = rest.split("/")
    dataset = _request(root, lambda: _client(root).retrieve_instance(study, series, uid))
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def store(address: str, datasets: Iterable[pydicom.Dataset]) -> Iterator[str]:
    """Store objects, one at a time.

    Yields:
        for each object an empty string, or the reason why the PACS did not store it.

    Raises:
        UnavailableError: the PACS does not answer, or refuses.
    """
    root, _ = _parse(address)
    client = _client(root)
    for dataset in datasets:
        try:
            answer = _request(root, partial(client.store_instances, [dataset]))
        except RefusedError as refused:
            yield refused.reason
            continue
        failed = answer.get("FailedSOPSequence") or []
        yield f"failure reason {failed[0].get('FailureReason', 'not stated')}" if failed else ""


def _parse(address: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the service's root without the prefix, and the search's keywords and values."""
    example = "Expected dicomweb+https://HOST/ROOT?Modality=DX."
    try:
        parts = urlsplit(address.removeprefix(PREFIX))
        rate = float(os.environ.get(RATE) or 0)
    except ValueError as error:
        raise MedoodError(f"{address} is not the address of a PACS, or {RATE} is not a number. {example}") from error
    path_match = re.fullmatch(r".*/studies/[0-9.]+/series/[0-9.]+/instances/[0-9.]+", parts.path)
    if rate < 0 or ("/studies" in parts.path and not path_match) or parts.path.count("/studies") > 1:
        raise MedoodError(f"{address} is neither a service's root nor one instance, or {RATE} is below 0. {example}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MedoodError(f"{address} is not the address of a PACS. {example}")
    if parts.username or parts.password:
        raise MedoodError(f"The address of {parts.hostname} holds a name or password. Put them into {USER} and {PASSWORD}.")
    query = parse_qsl(parts.query, keep_blank_values=True)
    for keyword, _ in query:
        if keyword not in keyword_dict:
            raise MedoodError(f"{keyword!r} in the address of {parts.hostname} is not a DICOM keyword. {example}")
        if "Patient" in keyword and keyword not in ("PatientSex", "PatientAge"):
            raise MedoodError(f"{keyword} would appear unhashed in the ledger and reports. Search by another attribute.")
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
    logging.getLogger("retrying").setLevel(logging.CRITICAL)  # it would print a traceback for each retry
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


def _request(root: str, ask: Callable[[], T]) -> T:
    """Return a PACS's answer; raise an error that tells a problem with one object from one with the whole PACS."""
    from requests import HTTPError, RequestException
    from requests.exceptions import ChunkedEncodingError
    from retrying import RetryError

    _wait()
    host = urlsplit(root).netloc
    try:
        return ask()
    except RetryError as error:  # after all tries
        answer = error.last_attempt.value
        if answer.status_code in _DOWN:
            raise UnavailableError(f"{host} answers {answer.status_code} {answer.reason} to every try") from error
        raise RefusedError(
            Status.UNREADABLE, Reason("pacs_answer_words", code=answer.status_code, words=answer.reason)
        ) from error
    except HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in (401, 403):
            problem = f"{host} refuses access ({code}). Renew the credentials ({TOKEN}, or {USER} and {PASSWORD})"
            raise UnavailableError(problem) from error
        raise RefusedError(Status.UNREADABLE, Reason("pacs_answer", code=code)) from error
    except ChunkedEncodingError as error:  # in all tries
        raise RefusedError(Status.UNREADABLE, Reason("pacs_answer_cut")) from error
    except RequestException as error:
        raise UnavailableError(f"{host} does not answer ({type(error).__name__})") from error
    except MedoodError:
        raise
    except Exception as error:  # pydicom and the client raise many exception types if the answer is not a DICOM object
        raise RefusedError(Status.UNREADABLE, Reason("pacs_answer_not_dicom")) from error


_last = [0.0]


def _wait() -> None:
    """Wait as needed to keep to this process's request rate (``MEDOOD_DICOMWEB_RATE``)."""
    rate = float(os.environ.get(RATE) or 0)
    if rate > 0:
        time.sleep(max(0.0, _last[0] + 1.0 / rate - time.monotonic()))
        _last[0] = time.monotonic()
