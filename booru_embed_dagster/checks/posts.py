"""Checks of the posts: the table has its columns, and every line of the export is accounted for."""

from __future__ import annotations

import pyarrow.parquet as pq

from booru_embed_core.posts.parquet_parts import POSTS_SCHEMA, count_posts, part_files
from booru_embed_core.posts.rejects import REJECTS_FILE
from booru_embed_core.posts.report import REPORT_FILE, PostsReport
from booru_embed_dagster.checks.base import Findings, blocking, column_problems
from booru_embed_dagster.resources import Pipeline


@blocking("posts")
def posts_have_their_columns(pipeline: Pipeline) -> Findings:
    """Every part of the table has the columns and types of `docs/reference/posts.md`."""
    (posts,) = pipeline.current("posts")
    files = part_files(posts.path)
    return Findings(column_problems(files, POSTS_SCHEMA, "posts"), {"num_files": len(files)})


@blocking("posts")
def posts_reconcile(pipeline: Pipeline) -> Findings:
    """Every line of the export is a post, was filtered, or is in `rejects.parquet`, as the report counts them."""
    (posts,) = pipeline.current("posts")
    report = PostsReport.from_json((posts.path / REPORT_FILE).read_text(encoding="utf-8"))
    num_posts = count_posts(posts.path)
    num_set_aside = int(pq.read_metadata(posts.path / REJECTS_FILE).num_rows)
    problems = []
    if not report.reconciles:
        problems.append(
            f"{posts.path / REPORT_FILE}: read is not kept + duplicate + rejected + filtered; materialize posts again"
        )
    if num_posts != report.num_kept:
        problems.append(f"{posts.path}: {num_posts} posts, {report.num_kept} reported; materialize posts again")
    if num_set_aside != report.num_duplicate + report.num_rejected:
        problems.append(
            f"{posts.path / REJECTS_FILE}: {num_set_aside} lines, "
            f"{report.num_duplicate + report.num_rejected} reported; materialize posts again"
        )
    figures = {"num_read": report.num_read, "num_kept": num_posts, "num_filtered": report.num_filtered}
    return Findings(problems, {**figures, "num_set_aside": num_set_aside})
