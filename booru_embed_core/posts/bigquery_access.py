"""Access to BigQuery: credentials, the billed project, the services, and Google's refusals in one line.

Credentials are found by Google's own rules and never stored. Google's client is the extra ``bigquery``. Tables are read
by ``bigquery.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from booru_embed_core.errors import first_line
from booru_embed_core.posts.validation import ExportError, ExportUnreachableError

try:
    import google.auth
    from google.api_core import exceptions as api_errors
    from google.auth import exceptions as auth_errors
    from google.auth.transport.requests import AuthorizedSession, Request

    # The client one level up brings its own reader, which resumes forever and hides the offset.
    from google.cloud.bigquery_storage_v1.services.big_query_read import BigQueryReadClient
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport
except ImportError as error:
    raise ImportError("Google's client is missing; pip install 'booru-embed[bigquery]'") from error

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    # A window that grows with the connection's speed lets pages arrive faster than they are written: 0.65 to 0.95 GB at
    # the peak over four streams, against 0.64 with this one.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 22),
    # Without pings, a connection that was lost silently would be waited for until the call's deadline, a day.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_SCOPE: Final = "https://www.googleapis.com/auth/bigquery"
_REST_URL: Final = "https://bigquery.googleapis.com"


class BigQueryError(ExportError):
    """The table cannot be read; the message names project, table, cause and remedy in one line."""


class BigQueryUnreachableError(BigQueryError, ExportUnreachableError):
    """Network or service failed again and again; later they may not."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The two services of BigQuery as one account sees them."""

    storage: BigQueryReadClient
    """Rows."""
    http: Any
    """A session of ``requests`` that adds the credentials: what the table is."""
    project: str
    """The one that reads and is billed, not the one that owns the table."""
    rest_url: str = _REST_URL


@contextmanager
def open_access(project: str | None = None) -> Iterator[Access]:
    """Access for the account that Google's rules find; `project` is billed, by default that of the credentials.

    Raises:
        BigQueryError: no credentials, no project, or credentials that Google refuses.
    """
    try:
        credentials, found = google.auth.default(scopes=[_SCOPE])
    except auth_errors.GoogleAuthError as error:
        raise BigQueryError(
            f"no Google credentials ({first_line(error)}); run `gcloud auth application-default login` or let "
            "GOOGLE_APPLICATION_CREDENTIALS name a key file"
        ) from error
    project = project or found
    if not project:
        raise BigQueryError(
            "no Google Cloud project to read with: the settings name none, and the credentials have none; set "
            "[posts] bigquery_project or GOOGLE_CLOUD_PROJECT"
        )
    try:
        # Within a call, a refused refresh looks like a broken connection and would be retried.
        credentials.refresh(Request())  # type: ignore[no-untyped-call]
    except auth_errors.TransportError as error:
        raise BigQueryUnreachableError(
            f"no answer from Google to the credentials ({first_line(error)}); check the network and read again"
        ) from error
    except auth_errors.GoogleAuthError as error:
        raise BigQueryError(
            f"Google refuses the credentials ({first_line(error)}); run "
            "`gcloud auth application-default login` again or renew the key file"
        ) from error
    channel = BigQueryReadGrpcTransport.create_channel(credentials=credentials, options=CHANNEL_OPTIONS)
    with (
        BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel)) as storage,
        AuthorizedSession(credentials) as http,  # type: ignore[no-untyped-call]
    ):
        yield Access(storage=storage, http=http, project=project)


@contextmanager
def explained(table: str, project: str) -> Iterator[None]:
    """Turns Google's refusals into a BigQueryError of one line with the remedy."""
    try:
        yield
    except api_errors.NotFound as error:
        raise BigQueryError(f"{table}: no such table ({first_line(error)}); correct the table's name") from error
    except (api_errors.Forbidden, api_errors.Unauthorized) as error:
        raise BigQueryError(
            f"{table}: project {project!r} may not read it ({first_line(error)}); enable the BigQuery API and the "
            "BigQuery Storage API in that project and give the account the role BigQuery Read Session User there"
        ) from error
    except (api_errors.RetryError, auth_errors.TransportError) as error:
        raise BigQueryUnreachableError(
            f"{table}: no answer to project {project!r} ({first_line(error)}); check the network and read again"
        ) from error
    except auth_errors.GoogleAuthError as error:
        raise BigQueryError(
            f"{table}: Google refuses the credentials of project {project!r} ({first_line(error)}); run "
            "`gcloud auth application-default login` again or renew the key file"
        ) from error
    except api_errors.GoogleAPICallError as error:
        raise BigQueryError(
            f"{table}: BigQuery refuses to read it for project {project!r} ({first_line(error)}); check the names of "
            "project and table and the row restriction"
        ) from error
