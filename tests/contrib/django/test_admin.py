"""Job logs in Django's admin."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import include, path, reverse

from joblog_router import Entry
from joblog_router._pipeline import namespaces
from joblog_router.contrib.django.admin import JobLogAdminMixin
from joblog_router.contrib.django.models import JobLogEntry
from tests.contrib.django.conftest import store_all

pytestmark = pytest.mark.django_db(databases=["default", "joblog"])

Log = Callable[..., Entry]
LIST = "/admin/joblog_router/joblogentry/"


@pytest.fixture
def boss() -> Client:
    """A browser of a superuser."""
    client = Client()
    client.force_login(User.objects.create_superuser("boss", password="x"))
    return client


def listed(client: Client, **parameters: Any) -> list[str]:
    """The messages in the list, as they stand there."""
    response = client.get(LIST, parameters)
    assert response.status_code == 200
    return re.findall(r'field-message_shown">([^<]*)<', response.content.decode())


def test_the_list_is_filtered_by_job_level_and_logger(boss: Client, log: Log) -> None:
    """Each alone and together; a job's lines by time, all others by when they were stored, newest first."""
    log("7", "late", created=2000.0, logger="shop.disk")
    log("7", "early", created=1000.0, logger="shop.disk.fast", level=40)
    log("8", "other", created=1500.0, logger="shopping")
    assert listed(boss) == ["other", "early", "late"]
    assert listed(boss, job="7") == ["late", "early"]
    assert listed(boss, level="40") == ["early"]
    assert listed(boss, logger="shop.disk") == ["early", "late"]
    assert listed(boss, logger="shop", job="8") == []
    assert listed(boss, job="7", level="40", logger="shop") == ["early"]
    assert listed(boss, job="nowhere") == []


def test_a_filter_keeps_the_others(boss: Client, log: Log) -> None:
    """Naming a job does not forget the level."""
    log("7")
    page = boss.get(LIST, {"level": "20", "logger": 'a"b'}).content.decode()
    (form,) = [form for form in re.findall(r"<form.*?</form>", page, re.DOTALL) if 'name="job"' in form]
    assert '<input type="hidden" name="level" value="20">' in form
    assert 'value="a&quot;b"' in form


@pytest.mark.sqlite
def test_the_table_is_neither_counted_nor_sorted_nor_searched_for_values(boss: Client, make_entry: Any) -> None:
    """No COUNT, no DISTINCT; row queries are limited and go by an index; pages follow each other all the same."""
    store_all([make_entry(job_id="7", message=f"line {n}", created=1000.0 + n) for n in range(250)])
    for parameters in ({}, {"job": "7"}, {"level": "20"}, {"p": "2"}, {"job": "7", "p": "3"}):
        with CaptureQueriesContext(connections["joblog"]) as queries:
            boss.get(LIST, parameters)
        for query in (query["sql"] for query in queries):
            assert "COUNT(" not in query, query
            assert "DISTINCT" not in query, query
            assert "LIMIT" in query or "MAX(" in query, query
            with connections["joblog"].cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {query}")
                plan = " ".join(row[3] for row in cursor.fetchall())
            assert "TEMP B-TREE" not in plan, (query, plan)
            assert "SCAN" not in plan or "USING" in plan, (query, plan)
    assert listed(boss) == [f"line {n}" for n in range(249, 149, -1)]
    assert listed(boss, p="3") == [f"line {n}" for n in range(49, -1, -1)]
    assert 'href="?p=2" rel="next"' in boss.get(LIST).content.decode()
    assert 'rel="next"' not in boss.get(LIST, {"p": 3}).content.decode()
    assert 'href="?job=7&amp;p=2" rel="prev"' in boss.get(LIST, {"job": "7", "p": 3}).content.decode()


def test_without_a_job_only_the_newest_rows_are_looked_at(
    boss: Client, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rare level is not looked for in millions of rows; a job named finds all of its own. The title says so."""
    monkeypatch.setattr("joblog_router.contrib.django.admin._NEWEST", 2)
    log("7", "old", level=50)
    log("8", "newer")
    log("8", "newest")
    assert listed(boss) == ["newest", "newer"]
    assert listed(boss, level="50") == []
    assert listed(boss, level="50", job="7") == ["old"]
    assert "name a job to see all of its own" in boss.get(LIST).content.decode()
    assert boss.get(f"{LIST}{JobLogEntry.objects.get(message='old').pk}/change/").status_code == 200


def test_a_line_can_be_looked_at_and_nothing_else(boss: Client, log: Log) -> None:
    """No adding, changing, deleting, no action; what is logged is text."""
    log("7", "<script>alert(1)</script>\x1b[31m", exception="</textarea>boom", fields={"<b>": "<i>\u202e\x9b"})
    pk = JobLogEntry.objects.get().pk
    page = boss.get(f"{LIST}{pk}/change/").content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</div>" in page
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert not set("\x1b\x9b\u202e") & set(page)
    assert 'name="_save"' not in page
    assert boss.get(f"{LIST}add/").status_code == 403
    assert boss.get(f"{LIST}{pk}/delete/").status_code == 403
    assert boss.post(f"{LIST}{pk}/change/", {"message": "x"}).status_code == 403
    assert 'name="action"' not in boss.get(LIST).content.decode()
    assert "<script>alert" not in boss.get(LIST).content.decode()


def test_another_namespaces_lines_are_not_there(boss: Client, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another tenant's jobs logged is neither in the list nor found by its number."""
    log("7", "theirs", namespace="other")
    pk = JobLogEntry.objects.get().pk
    assert listed(boss) == listed(boss, job="7") == []
    assert boss.get(f"{LIST}{pk}/change/").status_code == 302
    monkeypatch.setattr(namespaces, "namespace_of", lambda: "other")
    assert listed(boss) == ["theirs"]


def test_only_who_may_view_lines_sees_them(log: Log) -> None:
    """The admin's own rule: the permission to view job log entries."""
    log("7")
    clerk = Client()
    clerk.force_login(User.objects.create_user("clerk", is_staff=True))
    assert clerk.get(LIST).status_code == 403


class _JobAdmin(JobLogAdminMixin, admin.ModelAdmin):
    list_display = ("username",)


class _OwnIdAdmin(_JobAdmin):
    def job_log_id(self, job: Any) -> object:
        return f"user/{job.pk}"


def test_the_projects_own_job_admin_links_to_the_log() -> None:
    """A column and a read-only field, added to those that are there; another id where the project says so."""
    request = RequestFactory().get("/")
    job = User(pk=7, username="x")
    jobs = _JobAdmin(User, admin.site)
    assert list(jobs.get_list_display(request)) == ["username", "job_log"]
    assert list(jobs.get_readonly_fields(request)) == ["job_log"]
    assert jobs.job_log(job) == '<a href="/jobs/7/">Log</a>'
    assert _OwnIdAdmin(User, admin.site).job_log(job) == '<a href="/jobs/user~2f7/">Log</a>'
    assert jobs.job_log(User()) == "-"


class _AdminOnly:
    urlpatterns = [path("admin/", admin.site.urls)]


class _Nothing:
    urlpatterns: list[Any] = []


def test_the_link_leads_to_the_admin_where_the_page_is_not_included() -> None:
    """Without our URLs to the lines in the admin; without the admin there is no link."""
    jobs = _JobAdmin(User, admin.site)
    with override_settings(ROOT_URLCONF=_AdminOnly):
        assert jobs.job_log(User(pk="a b")) == f'<a href="{LIST}?job=a+b">Log</a>'
    with override_settings(ROOT_URLCONF=_Nothing):
        assert jobs.job_log(User(pk=7)) == "Log"


def test_the_urls_may_be_included_anywhere() -> None:
    """The name is the same wherever the project puts the page."""

    class _Elsewhere:
        urlpatterns = [path("a/b/", include("joblog_router.contrib.django.urls"))]

    with override_settings(ROOT_URLCONF=_Elsewhere):
        assert reverse("joblog:page", args=["7"]) == "/a/b/7/"
