"""Checks of the posts: the table has its columns, every line of the export is accounted for, and tags are known."""

from __future__ import annotations

from typing import Final

import pyarrow.parquet as pq

from booru_embed_core.posts.parquet_parts import POSTS_SCHEMA, count_posts, part_files
from booru_embed_core.posts.rejects import REJECTS_FILE
from booru_embed_core.posts.report import REPORT_FILE, PostsReport
from booru_embed_dagster.checks.base import Findings, blocking, column_problems, warning
from booru_embed_dagster.resources import Pipeline

MAX_UNKNOWN_SHARE: Final = 0.01


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
    report = PostsReport.read(posts.path / REPORT_FILE)
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


@warning("posts")
def few_tags_are_unknown(pipeline: Pipeline) -> Findings:
    """Where posts have all tags in one field, at most 1% of the uses are of tags that `tag_categories` lacks."""
    (posts,) = pipeline.current("posts")
    report = PostsReport.read(posts.path / REPORT_FILE)
    num_unknown, num_tags = report.num_unknown_tags, report.num_split_tags
    if not num_tags:
        return Findings([], note="every file has a column of tags for each category")
    share = num_unknown / num_tags
    problems = []
    if share > MAX_UNKNOWN_SHARE:
        problems.append(
            f"{posts.path / REPORT_FILE}: {num_unknown:,} of {num_tags:,} uses ({share:.1%}) are of tags that the "
            "table of tags lacks, and count as general; set [posts] tag_categories to a newer table of the same site, "
            "and check [posts] tag_separator, html_entities and aliases"
        )
    return Findings(problems, {"num_unknown_tags": num_unknown, "num_split_tags": num_tags, "share_unknown": share})


@warning("posts")
def few_posts_are_in_two_files(pipeline: Pipeline) -> Findings:
    """Of no file do more than 1% of the posts have the id of a post in an earlier file, as posts of two sites do."""
    (posts,) = pipeline.current("posts")
    report = PostsReport.read(posts.path / REPORT_FILE)
    num_posts = sum(counts.num_duplicate_of_other_files for counts in report.files)
    return Findings(report.overlaps, {"num_duplicate_of_other_files": num_posts})
