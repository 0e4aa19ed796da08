"""German sentences, written for the benchmarks: everyday ones of 3 to 25 words."""

GERMAN = (
    "Das Wetter ist heute schön.",
    "Wo hast du meinen Schlüssel hingelegt?",
    "Wir treffen uns morgen um acht Uhr vor dem Bahnhof.",
    "Meine Schwester lernt seit zwei Jahren Klavier.",
    "Kannst du mir bitte das Salz geben?",
    "Der Zug nach Hamburg hat heute eine halbe Stunde Verspätung.",
    "Ich habe vergessen, die Fenster zu schließen, bevor ich aus dem Haus gegangen bin.",
    "Er trinkt jeden Morgen zwei Tassen Kaffee.",
    "Die Kinder spielen im Garten, obwohl es regnet.",
    "Niemand wusste, warum sie so früh nach Hause gegangen war.",
    "Das Buch, das du mir empfohlen hast, war wirklich spannend.",
    "Wenn du Zeit hast, ruf mich heute Abend an.",
    "Wir müssen noch einkaufen.",
    "Sie sprach so leise, dass ich kein Wort verstehen konnte.",
    "In unserer Straße wird ein neues Haus gebaut.",
    "Nach dem Essen gingen wir am Fluss spazieren und sahen den Booten zu, bis es dunkel wurde.",
    "Ich glaube nicht, dass er kommt.",
    "Vielen Dank für deine Hilfe!",
    "Der alte Mann setzte sich auf die Bank und fütterte die Vögel.",
    "Hast du schon gehört, dass Anna ein Kind bekommen hat?",
)
