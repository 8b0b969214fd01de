"""Alerts outside of Dagster's UI: a failed run is posted to the webhook that the environment names."""

import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from concurrent.futures import Future
from typing import Final

import dagster as dg

from booru_embed_core.errors import first_line

WEBHOOK_VARIABLE: Final = "BOORU_EMBED_FAILURE_WEBHOOK"
"""Names the address that failed runs are posted to. The address may hold a secret and is never logged."""
DAGSTER_URL_VARIABLE: Final = "BOORU_EMBED_DAGSTER_URL"
"""Names the address of Dagster's UI; if set, the message links to the run."""
TIMEOUT_SECONDS: Final = 5.0
"""Of one call. A tick reports up to five runs in at most 60 seconds; Dagster repeats a tick that takes longer."""
_MAX_CHARACTERS: Final = 500


class WebhookError(RuntimeError):
    """The webhook was not reached or refused the message."""


@dg.run_failure_sensor(
    description=f"Posts each failed run as JSON to the address in {WEBHOOK_VARIABLE}. It is on when that is set.",
    default_status=dg.DefaultSensorStatus.RUNNING
    if os.environ.get(WEBHOOK_VARIABLE)
    else dg.DefaultSensorStatus.STOPPED,
)
def failure_webhook(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Posts the failed run once: an error here fails the tick, and the next tick takes the next failed run."""
    url = os.environ.get(WEBHOOK_VARIABLE)
    if not url:
        return dg.SkipReason(f"{WEBHOOK_VARIABLE} is not set where the code location runs")
    status = post_json(url, failure_message(context))
    context.log.info(f"the webhook answered {status} for run {context.dagster_run.run_id}")
    return None


def failure_message(context: dg.RunFailureSensorContext) -> dict[str, object]:
    """The posted message: `job`, `run_id`, `steps` (each failed `step` with its `error` in one line), `error`, `url`.

    `error` is the first step's, or the run's own reason. `url` is None if the UI's address is unknown. `text` holds
    the whole message in words, which chat programs show.
    """
    run = context.dagster_run
    steps = [{"step": event.step_key, "error": _error_line(event)} for event in context.get_step_failure_events()]
    error = steps[0]["error"] if steps else _first_line(context.failure_event.message)
    base = os.environ.get(DAGSTER_URL_VARIABLE, "").rstrip("/")
    url = f"{base}/runs/{run.run_id}" if base else None
    where = ", ".join(str(step["step"]) for step in steps) or run.job_name
    return {
        "text": " ".join(part for part in (f"booru-embed: {where} failed: {error}", url) if part),
        "job": run.job_name,
        "run_id": run.run_id,
        "steps": steps,
        "error": error,
        "url": url,
    }


def post_json(url: str, body: object, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
    """Posts `body` as JSON to `url`; returns the status, 200 to 299.

    Raises:
        WebhookError: `url` was not reached in time or answered with another status; redirects are not followed. The
            message never holds the address.
    """
    if not url.startswith(("http://", "https://")):
        raise WebhookError(f"the address in {WEBHOOK_VARIABLE} does not start with http:// or https://")
    outcome: Future[int] = Future()

    def call() -> None:
        try:
            outcome.set_result(_post(url, json.dumps(body).encode(), timeout_seconds))
        except WebhookError as error:
            outcome.set_exception(error)

    # urllib's timeout covers a single read, and name resolution has none.
    threading.Thread(target=call, name="webhook", daemon=True).start()
    try:
        return outcome.result(timeout_seconds)
    except TimeoutError:
        raise WebhookError(f"the webhook did not answer within {timeout_seconds:g} seconds") from None


def _post(url: str, content: bytes, timeout_seconds: float) -> int:
    headers = {"Content-Type": "application/json", "User-Agent": "booru-embed"}
    try:
        request = urllib.request.Request(url, content, headers)  # noqa: S310  checked above
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_seconds) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        raise WebhookError(f"the webhook answered {error.code} {error.reason}") from None
    except OSError as error:  # includes URLError, whose reason tells a wrong name from a refused connection
        raise WebhookError(f"the webhook was not reached: {getattr(error, 'reason', error)}") from None
    except (ValueError, http.client.HTTPException) as error:  # their messages may hold the address
        raise WebhookError(f"the webhook was not reached: {type(error).__name__}") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    # A redirected POST would become a GET without its body, and count as delivered.
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _error_line(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return _first_line(data.user_failure_data.description)
    if data.error is None:
        return _first_line(event.message)
    return _first_line((data.error.cause or data.error).message)  # the cause is the asset's error, below Dagster's own


def _first_line(text: str | None) -> str:
    line = first_line((text or "").strip() or "no reason was given", max_length=None)
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 1] + "…"
