"""The console's words: English in the code, Korean in a catalogue, numbers and moments as each language writes them."""

from __future__ import annotations

import gettext
import io
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel import Locale
from babel.dates import format_datetime, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from babel.units import format_unit

#: Languages by their names for themselves; the first one is the code's.
LANGUAGES = {"en": "English", "ko": "한국어"}
CATALOGUES = Path(__file__).parent / "locale"


def N_(text: str) -> str:  # noqa: N802  # gettext's own name for it
    """Mark a text for the catalogue that is translated where it is shown."""
    return text


@cache
def catalogue(language: str) -> gettext.NullTranslations:
    """The translations of a language, compiled from its catalogue once."""
    path = CATALOGUES / language / "console.po"
    if not path.is_file():
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def preferred(header: str) -> str:
    """The first of an Accept-Language header's languages that the console speaks."""
    for part in header.split(","):
        code = part.split(";")[0].strip().split("-")[0].lower()
        if code in LANGUAGES:
            return code
    return next(iter(LANGUAGES))


class Words:
    """How one reader wants things said.

    Parameters
    ----------
    language : str
        A key of `LANGUAGES`.
    zone : str
        IANA name of the reader's time zone; unknown ones count as UTC.
    """

    def __init__(self, language: str, zone: str = "UTC") -> None:
        self.language = language if language in LANGUAGES else next(iter(LANGUAGES))
        self._locale = Locale.parse(self.language)
        self._translations = catalogue(self.language)
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError):
            self._zone = ZoneInfo("UTC")

    def say(self, text: str) -> str:
        """A text in the reader's language."""
        return self._translations.gettext(text) if text else ""

    def number(self, value: float, digits: int = 1) -> str:
        """A number with at most so many decimals."""
        return format_decimal(round(value, digits), format="#,##0." + "#" * digits, locale=self._locale)

    def moment(self, at: str | None) -> str:
        """An ISO 8601 moment in the reader's zone; nothing for none."""
        return self._written(at, self.say("MMM d, y, HH:mm:ss"))

    def short_moment(self, at: str | None) -> str:
        """The same to the minute and without the year, for tables."""
        return self._written(at, self.say("MMM d, HH:mm"))

    def _written(self, at: str | None, pattern: str) -> str:
        if not at:
            return ""
        return format_datetime(datetime.fromisoformat(at), pattern, tzinfo=self._zone, locale=self._locale)

    def moment_ms(self, at_ms: int) -> str:
        """Epoch ms in the reader's zone."""
        return self.moment(datetime.fromtimestamp(at_ms / 1000, UTC).isoformat())

    def distance(self, at: str | None, now: datetime | None = None) -> str:
        """How far off a moment is, as in "5 minutes ago"; nothing for none."""
        if not at:
            return ""
        away = datetime.fromisoformat(at) - (now or datetime.now(UTC))
        return format_timedelta(away, add_direction=True, threshold=1.2, locale=self._locale)

    def span(self, seconds: float | None) -> str:
        """A length of time to two units, as in "2 hr 5 min"; nothing for none."""
        if seconds is None:
            return ""
        parts: list[str] = []
        left = max(round(seconds), 0)
        for unit, unit_s in _UNITS_S.items():
            count, left = divmod(left, unit_s)
            if count or (unit_s == 1 and not parts):
                parts.append(format_unit(count, f"duration-{unit}", "short", locale=self._locale))
        return " ".join(parts[:2])


_UNITS_S = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
