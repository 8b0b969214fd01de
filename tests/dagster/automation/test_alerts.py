"""Failed runs posted to a real HTTP server: what arrives, and what a webhook that fails leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest

from booru_embed_dagster.automation.alerts import (
    DAGSTER_URL_VARIABLE,
    WEBHOOK_VARIABLE,
    WebhookError,
    failure_message,
    failure_webhook,
    post_json,
)
from booru_embed_dagster.definitions import defs
from tests.dagster.project_helpers import REPOSITORY, Project, failure

pytestmark = pytest.mark.slow


@contextmanager
def webhook(status: int = 200, hangs: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that answers `status`, or a byte now and then without end, and what was posted."""
    posted: list[dict[str, Any]] = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append({"path": self.path, "type": self.headers["Content-Type"], "body": json.loads(body)})
            while hangs and not ended.wait(0.05):
                self.wfile.write(b"H")
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            posted.append({"path": self.path, "type": "GET"})

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret", posted
        finally:
            ended.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    monkeypatch.delenv(DAGSTER_URL_VARIABLE, raising=False)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def fail(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """A run that fails in `posts`: its export is missing."""
    project.export_file.unlink(missing_ok=True)
    result = project.materialize("posts,tag_frequencies", instance)
    assert not result.success
    return result


def context_of(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> dg.RunFailureSensorContext:
    return dg.build_run_status_sensor_context(
        "failure_webhook", result.get_run_failure_event(), instance, result.dagster_run
    ).for_run_failure()


def tick(instance: dg.DagsterInstance, cursor: str | None) -> Any:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=defs.get_repository_def())
    return failure_webhook.evaluate_tick(context)


def test_a_failed_run_is_posted_with_its_step_error_and_link(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fail(project, instance)
    monkeypatch.setenv(DAGSTER_URL_VARIABLE, "https://dagster.example/")
    with webhook() as (url, posted):
        monkeypatch.setenv(WEBHOOK_VARIABLE, url)
        assert failure_webhook(context_of(result, instance)) is None
    (message,) = posted
    error = failure(result)
    assert (message["path"], message["type"]) == ("/secret", "application/json")
    assert message["body"] == {
        "text": f"booru-embed: posts failed: {error} https://dagster.example/runs/{result.run_id}",
        "job": "__ASSET_JOB",
        "run_id": result.run_id,
        "steps": [{"step": "posts", "error": error}],
        "error": error,
        "url": f"https://dagster.example/runs/{result.run_id}",
    }
    assert "\n" not in error
    assert "export" in error


def test_errors_are_one_short_line_whatever_was_raised(instance: dg.DagsterInstance) -> None:
    @dg.op
    def breaks() -> None:
        raise RuntimeError("x" * 1000 + "\nsecond line")

    @dg.op
    def fails() -> None:
        raise dg.Failure("\n first line\nsecond line")

    @dg.job(executor_def=dg.in_process_executor)
    def both() -> None:
        breaks()
        fails()

    result = both.execute_in_process(instance=instance, raise_on_error=False)
    message = failure_message(context_of(result, instance))
    errors = {step["step"]: step["error"] for step in message["steps"]}  # type: ignore[attr-defined]
    assert errors["fails"] == "first line"
    assert errors["breaks"] == "RuntimeError: " + "x" * 485 + "…"
    assert message["job"] == "both"
    assert message["url"] is None


def test_a_run_that_fails_outside_of_its_steps_says_why(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(defs.resolve_implicit_global_asset_job_def())
    event = instance.report_run_failed(run, "the pod was evicted\nand more")
    context = dg.build_run_status_sensor_context("failure_webhook", event, instance, run).for_run_failure()
    message = failure_message(context)
    assert (message["steps"], message["error"]) == ([], "the pod was evicted")
    assert message["text"] == "booru-embed: __ASSET_JOB failed: the pod was evicted"


def test_a_webhook_that_fails_fails_one_tick_and_is_not_asked_again(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook(status=503) as (url, posted):
        monkeypatch.setenv(WEBHOOK_VARIABLE, url)
        cursor = tick(instance, None).cursor
        result = fail(project, instance)
        first = tick(instance, cursor)
        (reaction,) = first.dagster_run_reactions
        assert reaction.dagster_run.run_id == result.run_id
        assert reaction.error.message.strip().endswith("WebhookError: the webhook answered 503 Service Unavailable")
        again = tick(instance, first.cursor)
        assert again.dagster_run_reactions == []
        assert len(posted) == 1
        later = fail(project, instance)
        (reaction,) = tick(instance, again.cursor).dagster_run_reactions
        assert reaction.dagster_run.run_id == later.run_id


def test_runs_that_succeed_are_not_posted(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with webhook() as (url, posted):
        monkeypatch.setenv(WEBHOOK_VARIABLE, url)
        cursor = tick(instance, None).cursor
        assert project.materialize("posts", instance).success
        assert tick(instance, cursor).dagster_run_reactions == []
    assert posted == []


def test_without_an_address_the_tick_says_so(project: Project, instance: dg.DagsterInstance) -> None:
    cursor = tick(instance, None).cursor
    fail(project, instance)
    assert WEBHOOK_VARIABLE in tick(instance, cursor).skip_message


def test_a_webhook_that_does_not_answer_is_given_up() -> None:
    with webhook(hangs=True) as (url, _), pytest.raises(WebhookError, match=r"did not answer within 0\.3 seconds"):
        post_json(url, {}, timeout_seconds=0.3)


@pytest.mark.parametrize("status", [302, 307, 400, 500])
def test_only_2xx_counts_and_redirects_are_not_followed(status: int) -> None:
    with webhook(status) as (url, posted), pytest.raises(WebhookError, match=f"answered {status}"):
        post_json(url, {"a": 1})
    assert [message["path"] for message in posted] == ["/secret"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/secret", "file:///secret", "secret", "http:///secret", "http://[secret"]
)
def test_errors_do_not_hold_the_address(url: str) -> None:
    with pytest.raises(WebhookError) as caught:
        post_json(url, {})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("address", "status"), [("http://127.0.0.1:1", "RUNNING"), ("", "STOPPED"), (None, "STOPPED")])
def test_the_sensor_is_on_wherever_an_address_is_set(address: str | None, status: str) -> None:
    environment = {**os.environ, **({} if address is None else {WEBHOOK_VARIABLE: address})}
    code = (
        "from booru_embed_dagster.automation.alerts import failure_webhook; print(failure_webhook.default_status.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == status
