"""Slurm's forms of durations and moments."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

#: Longest time limit, in s: Slurm counts minutes in 32 bits.
LIMIT_S_MAX = 60 * 2**31

_DAYS = re.compile(r"(\d{1,6})-(\d{1,3})(?::(\d{1,2}))?(?::(\d{1,2}))?", re.ASCII)
_PLAIN = re.compile(r"\d{1,10}(?::\d{1,2}){0,2}", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([AaPp][Mm])?", re.ASCII)
_NOW = re.compile(r"now(?:\s*\+\s*(\d{1,9})\s*([a-z]*))?", re.ASCII)
_WORDS = {"midnight": 0, "noon": 12, "fika": 15, "teatime": 16}
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


def parse_limit_s(text: str) -> int | None:
    """Seconds of a time limit: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None: no limit (0, UNLIMITED, INFINITE).

    Raises
    ------
    ValueError
        Not of that form.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    if found := _DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    elif _PLAIN.fullmatch(text):
        parts = [int(part) for part in text.split(":")]
        days, hours = 0, parts[0] if len(parts) == 3 else 0
        minutes, seconds = (parts[-2], parts[-1]) if len(parts) > 1 else (parts[0], 0)
    else:
        raise ValueError(f"must be minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S, not {text!r}")
    total_s = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total_s > LIMIT_S_MAX:
        raise ValueError(f"is longer than can be, {text!r}")
    return total_s or None


def parse_moment(text: str, now: datetime) -> datetime:
    """A moment as --begin takes it: a time of day, a date, both, ``now+2hours``, tomorrow, noon…

    Parameters
    ----------
    now : datetime
        With its offset; moments are meant in its zone.

    Raises
    ------
    ValueError
        Not of such a form.
    """
    word = text.strip()
    lower = word.lower()
    if found := _NOW.fullmatch(lower):
        count, unit = int(found[1] or 0), (found[2] or "second").removesuffix("s") or "second"
        full = next((name for name in _UNITS if name.startswith(unit) and len(unit) >= 3), None)
        if full is None:
            raise ValueError(f"counts in seconds, minutes, hours, days or weeks, not {found[2]!r}")
        return now + timedelta(seconds=count * _UNITS[full])
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if lower in ("today", "tomorrow"):
        return midnight + timedelta(days=lower == "tomorrow")
    if lower in _WORDS:
        return _next_day_if_past(midnight.replace(hour=_WORDS[lower]), now)
    if found := _CLOCK.fullmatch(word):
        return _next_day_if_past(_at(midnight, found, text), now)
    date, _, clock = word.partition("T") if "T" in word else word.partition(" ")
    day = _date(date, midnight)
    if day is None:
        raise ValueError(f"must be HH:MM[:SS], YYYY-MM-DD[THH:MM[:SS]], MM/DD/YY or now+COUNT UNITS, not {text!r}")
    if not clock:
        return day
    if not (found := _CLOCK.fullmatch(clock)):
        raise ValueError(f"has no time of day after its T: {text!r}")
    return _at(day, found, text)


def _at(day: datetime, clock: re.Match[str], text: str) -> datetime:
    hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
    if clock[4]:
        if not 1 <= hour <= 12:
            raise ValueError(f"there is no such time of day: {text!r}")
        hour = hour % 12 + (12 if clock[4].lower() == "pm" else 0)
    try:
        return day.replace(hour=hour, minute=minute, second=second)
    except ValueError:
        raise ValueError(f"there is no such time of day: {text!r}") from None


def _next_day_if_past(moment: datetime, now: datetime) -> datetime:
    return moment + timedelta(days=moment < now)


def _date(text: str, midnight: datetime) -> datetime | None:
    for form in ("%Y-%m-%d", "%m/%d/%y", "%m%d%y", "%m/%d"):
        try:
            day = datetime.strptime(f"{midnight.year} {text}" if form == "%m/%d" else text, f"%Y {form}" if form == "%m/%d" else form)
        except ValueError:
            continue
        found = day.replace(tzinfo=midnight.tzinfo)
        return found.replace(year=found.year + (form == "%m/%d" and found < midnight))
    return None


def duration(seconds: float) -> str:
    """``[D-]HH:MM:SS``, without hours where there are none: as squeue shows time used."""
    total = int(max(seconds, 0))
    days, hours, minutes, left = total // 86_400, total // 3600 % 24, total // 60 % 60, total % 60
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{left:02}"
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
