"""`{% load joblog %}{% job_log job.pk %}`: a job's log as a part of another page."""

from __future__ import annotations

from typing import Any

from django import template

from ...._pipeline.text import clean
from ..texts import texts_as_json

__all__ = ["job_log"]

register: template.Library = template.Library()


@register.inclusion_tag("joblog_router/embed.html")
def job_log(job_id: object) -> dict[str, Any]:
    """The log of `job_id`, live. Who may not see it is told that there is none: the endpoints decide."""
    return {"job_id": clean(str(job_id)), "texts": texts_as_json()}
