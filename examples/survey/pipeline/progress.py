"""How far a job is, stage by stage: counters in Valkey, which many processes count down at once."""

from __future__ import annotations

from typing import NamedTuple

import redis
from survey.settings import VALKEY_URL

# A picture is processed when a worker has sent its result, and done when that is saved.
STAGES = ("process", "results")
EXPIRES = 7 * 24 * 60 * 60


class Stage(NamedTuple):
    """What is left of a stage."""

    remaining: int
    total: int
    failed: int

    @property
    def percentage(self) -> float:
        return 100.0 if not self.total else 100.0 * (self.total - self.remaining) / self.total


class Progress:
    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        self.store = redis.Redis.from_url(VALKEY_URL)

    def key(self, stage: str, what: str) -> str:
        return f"job:{self.job_id}:{stage}:{what}"

    def start(self, images: list[str]) -> None:
        with self.store.pipeline() as pipe:
            for stage in STAGES:
                pipe.delete(self.key(stage, "pending"), self.key(stage, "failed"))
                pipe.sadd(self.key(stage, "pending"), *images)
                pipe.set(self.key(stage, "total"), len(images), ex=EXPIRES)
                pipe.expire(self.key(stage, "pending"), EXPIRES)
            pipe.execute()

    def claim(self, images: list[str]) -> set[str]:
        """Which of these pictures nobody has sent before: what is delivered twice is saved once."""
        with self.store.pipeline() as pipe:
            for image in images:
                pipe.srem(self.key("process", "pending"), image)
            return {image for image, is_new in zip(images, pipe.execute(), strict=True) if is_new}

    def finish(self, images: set[str], failed: int) -> Stage:
        """These are saved; what is left. One step for the server: of many processes one sees the last go."""
        with self.store.pipeline() as pipe:
            pipe.srem(self.key("results", "pending"), *images)
            pipe.incrby(self.key("results", "failed"), failed)
            pipe.scard(self.key("results", "pending"))
            pipe.get(self.key("results", "total"))
            _, failures, remaining, total = pipe.execute()
        return Stage(remaining, int(total or 0), failures)

    def stage(self, stage: str) -> Stage:
        with self.store.pipeline() as pipe:
            pipe.scard(self.key(stage, "pending"))
            pipe.get(self.key(stage, "total"))
            pipe.get(self.key(stage, "failed"))
            remaining, total, failed = pipe.execute()
        return Stage(remaining, int(total or 0), int(failed or 0))
