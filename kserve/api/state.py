"""What the routes share: settings, the translator, the worker, and whether it is warm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from kserve.api.worker import Worker
from kserve.config import Settings
from kserve.errors import NotReady
from kserve.translator import Translator


@dataclass
class State:
    """One per app."""

    settings: Settings
    translator: Translator
    worker: Worker
    ready: bool = False

    async def warm(self) -> None:
        """Run the engine once, then take requests."""
        await self.worker.run(self.translator.warm)
        self.ready = True

    def require_ready(self) -> None:
        """Raises NotReady until the model is warm."""
        if not self.ready:
            raise NotReady("the model is still being warmed up; try again in a moment")


def _state(request: Request) -> State:
    state: State = request.app.state.kserve
    return state


AppState = Annotated[State, Depends(_state)]
