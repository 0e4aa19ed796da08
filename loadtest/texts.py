"""German sentences, put together at random from words of our own: as many different ones as a run needs."""

from __future__ import annotations

import random

WHO = (
    "Der alte Mann",
    "Meine Schwester",
    "Ein Hund",
    "Die Lehrerin",
    "Unser Nachbar",
    "Das kleine Mädchen",
    "Ein junger Koch",
    "Die Fahrerin",
    "Mein Vetter",
    "Eine müde Ärztin",
    "Der Bäcker",
    "Das Kind",
)
DOES = (
    "liest ein Buch",
    "trinkt Tee",
    "wartet",
    "schläft",
    "kauft Brot",
    "sucht den Schlüssel",
    "repariert ein Rad",
    "singt ein Lied",
    "spielt Klavier",
    "füttert die Vögel",
    "schreibt einen Brief",
    "kocht Suppe",
)
WHERE = (
    "im Garten",
    "am Bahnhof",
    "auf der Bank",
    "in der Küche",
    "vor dem Haus",
    "am Fluss",
    "in der Stadt",
    "unter dem Baum",
    "auf dem Markt",
    "neben der Schule",
    "im Zug nach Hamburg",
    "am Fenster",
)
WHEN = (
    "heute",
    "am Morgen",
    "seit drei Stunden",
    "nach dem Essen",
    "jeden Abend",
    "bei Regen",
    "im Sommer",
    "vor der Arbeit",
    "an einem kalten Tag",
    "in der Nacht",
    "am Sonntag",
    "zum ersten Mal",
)
WHY = (
    "weil es regnet",
    "obwohl niemand zu Hause ist",
    "während die Kinder im Hof spielen",
    "bevor der Zug kommt",
    "damit alle etwas davon haben",
    "weil die Sonne scheint und das Wetter gut ist",
    "bis es dunkel wird",
    "ohne ein Wort zu sagen",
    "und denkt an den letzten Urlaub am Meer",
    "und freut sich darüber",
)


def sentences(count: int, seed: int = 1) -> list[str]:
    """Different sentences of 3 to 25 words, about twelve in the middle."""
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[_sentence(chance)] = None
    return list(found)


def _sentence(chance: random.Random) -> str:
    parts = [chance.choice(WHO), chance.choice(DOES)]
    for words, share in ((WHEN, 0.7), (WHERE, 0.8)):
        if chance.random() < share:
            parts.append(chance.choice(words))
    text = " ".join(parts)
    if chance.random() < 0.5:
        text = f"{text}, {chance.choice(WHY)}"
    if chance.random() < 0.15:
        text = f"{text}, {chance.choice(WHY)}"
    return f"{text}."
