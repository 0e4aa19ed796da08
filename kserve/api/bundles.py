"""The loaded models by language pair; a folder's newer model replaces its old one, and no request is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from kserve._engine import DecodingOptions
from kserve.batcher import Batcher
from kserve.config import ServerSettings
from kserve.decoding import Request
from kserve.errors import SettingsError, UnsupportedLanguage
from kserve.languages import language_name
from kserve.text.sentence import Codec
from kserve.translator import Translator, bundled_models

Pair = tuple[str, str]
Checked: TypeAlias = tuple[Request, DecodingOptions]


@dataclass(eq=False)
class Loaded:
    """A model with its batcher; it is closed when nobody uses it any more."""

    path: Path
    translator: Translator
    batcher: Batcher
    codec: Codec
    usual: dict[bool, Checked] = field(default_factory=dict)  # of requests without wishes, by `attention`
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pair(self) -> Pair:
        """Codes of its source and target language."""
        return self.translator.languages

    @property
    def identity(self) -> str:
        """The checksum of its weights."""
        return str(self.translator.bundle.config["files"]["model.safetensors"]["sha256"])

    @contextmanager
    def used(self) -> Iterator[Loaded]:
        """While it is used it is not closed."""
        self.users += 1
        try:
            yield self
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()

    async def retire(self, timeout: float) -> None:
        """Close it when its last request is done."""
        while self.users:
            self.unused.clear()
            try:
                await asyncio.wait_for(self.unused.wait(), timeout)
            except asyncio.TimeoutError:
                break
        await self.batcher.close(timeout)


class Bundles:
    """All models of a server."""

    def __init__(self, settings: ServerSettings, translators: Sequence[Translator]) -> None:
        self._settings = settings
        self._loaded: dict[Pair, Loaded] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        for translator in translators:
            one = self._entry(translator)
            if one.pair in self._loaded:
                other = self._loaded[one.pair].path
                raise SettingsError(
                    f"{other} and {one.path} both translate {'-'.join(one.pair)}; give one for each pair"
                )
            self._loaded[one.pair] = one

    def __iter__(self) -> Iterator[Loaded]:
        return iter(list(self._loaded.values()))

    @property
    def languages(self) -> list[str]:
        """Codes of all languages, sources first."""
        pairs = list(self._loaded)
        return list(dict.fromkeys([source for source, _ in pairs] + [target for _, target in pairs]))

    def targets(self, source: str) -> list[str]:
        """What a language can be translated into; itself, which changes nothing, comes last."""
        return [*(target for one, target in self._loaded if one == source), source]

    def sources(self, target: str) -> list[str]:
        """What can be translated into a language."""
        return [source for source, one in self._loaded if one == target]

    def choose(self, source: str, target: str) -> Loaded | None:
        """The model for a pair; None for a language into itself.

        Raises:
            UnsupportedLanguage: there is no model for the pair.
        """
        found = self._loaded.get((source, target))
        if found is None and source != target:
            raise UnsupportedLanguage(
                f"{language_name(target)} ({target}) is not available as a target language from "
                f"{language_name(source)} ({source})"
            )
        return found

    async def warm(self) -> None:
        """Run every model once."""
        loop = asyncio.get_running_loop()
        for one in self:
            await loop.run_in_executor(None, one.translator.warm)

    async def reload(self) -> list[str]:
        """Read every model's folder again; what cannot be used leaves the old model in place.

        Returns:
            Names of the models that are new.

        Raises:
            BundleError: a folder cannot be used; models before it in the list have been replaced.
        """
        async with self._reloading:
            return [await self._renewed(old) for old in self]

    async def _renewed(self, old: Loaded) -> str:
        """The name of the model that takes an old one's place."""
        loop = asyncio.get_running_loop()
        translator = await loop.run_in_executor(None, load, old.path, self._settings)
        if translator.languages != old.pair:
            raise SettingsError(
                f"{old.path} now translates {'-'.join(translator.languages)}, not {'-'.join(old.pair)}; "
                "start the server anew for another pair"
            )
        await loop.run_in_executor(None, translator.warm)
        new = self._entry(translator)
        self._loaded[new.pair] = new
        task = asyncio.create_task(old.retire(self._settings.file_deadline))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        return translator.bundle.name

    async def close(self) -> None:
        """Finish what was accepted, within the time that is set for stopping."""
        await asyncio.gather(*(one.batcher.close(self._settings.stop_seconds) for one in self))
        for task in list(self._retiring):
            task.cancel()

    def _entry(self, translator: Translator) -> Loaded:
        batcher = Batcher(
            translator.engine,
            threads=self._settings.threads,
            max_queued_tokens=self._settings.max_queued_tokens,
        )
        return Loaded(translator.bundle.path, translator, batcher, translator.codec)


def load(path: Path, settings: ServerSettings) -> Translator:
    """One model; a call of its engine uses one thread, because calls run side by side."""
    return Translator(path, settings.isa, 1)


def load_all(settings: ServerSettings) -> list[Translator]:
    """The models that the settings name, or else all that come with kserve."""
    paths = settings.models or ((settings.model,) if settings.model else bundled_models())
    return [load(path, settings) for path in paths]
