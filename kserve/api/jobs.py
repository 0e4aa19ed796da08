"""Documents that are translated while the client asks how far they are."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from kserve.api.documents import DoneFile
from kserve.errors import KserveError, NotFound, NotReady, Overloaded

_MAX_JOBS = 100  # under way or not fetched yet
_MAX_CALLER_JOBS = 20


@dataclass
class Job:
    """A document by its id; its key is needed to ask for it."""

    id: str
    key: str
    caller: str
    task: asyncio.Task[DoneFile]

    @property
    def status(self) -> dict[str, Any]:
        """In the words of the API that has such jobs."""
        told: dict[str, Any] = {"document_id": self.id}
        if not self.task.done():
            return {**told, "status": "translating", "seconds_remaining": 1}
        error = None if self.task.cancelled() else self.task.exception()
        if error is not None or self.task.cancelled():
            shown = str(error) if isinstance(error, KserveError) else "internal error"
            return {**told, "status": "error", "error_message": shown}
        return {**told, "status": "done", "billed_characters": self.task.result().characters}


@dataclass
class Jobs:
    """All documents under way; the oldest finished one makes room for a new one."""

    _jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)

    def start(self, work: Coroutine[Any, Any, DoneFile], caller: str) -> Job:
        """Translate a document in the background.

        Raises:
            Overloaded: too many are under way.
        """
        if len(self._jobs) >= _MAX_JOBS:
            done = next((job for job in self._jobs.values() if job.task.done()), None)
            if done:
                del self._jobs[done.id]
        mine = sum(job.caller == caller and not job.task.done() for job in self._jobs.values())
        if len(self._jobs) >= _MAX_JOBS or mine >= _MAX_CALLER_JOBS:
            work.close()
            raise Overloaded("too many documents are under way; try again later", 10)
        job = Job(
            secrets.token_hex(16).upper(), secrets.token_hex(32).upper(), caller, asyncio.create_task(work)
        )
        job.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._jobs[job.id] = job
        return job

    def find(self, identity: str, key: Any) -> Job:
        """The document of this id and key.

        Raises:
            NotFound: there is none.
        """
        job = self._jobs.get(identity)
        if job is None or not isinstance(key, str) or not hmac.compare_digest(job.key.encode(), key.encode()):
            raise NotFound("Document not found.")
        return job

    def take(self, identity: str, key: Any) -> DoneFile:
        """The translated document; it can be taken once.

        Raises:
            NotReady: it is not done yet.
        """
        job = self.find(identity, key)
        if not job.task.done():
            raise NotReady("Document translation is not done.")
        del self._jobs[identity]
        return job.task.result()

    async def close(self, seconds: float) -> None:
        """Wait for what is under way."""
        tasks = [job.task for job in self._jobs.values() if not job.task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
