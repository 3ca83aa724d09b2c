"""Makes tests/fixtures/strftime.json: what Python's datetime.strftime makes of each directive, on Linux in the C locale.

    TZ=UTC LC_ALL=C python tests/reference/make_strftime_fixtures.py
"""

import datetime
import json
import os
import pathlib
import string
import time

OUT = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "strftime.json"

os.environ["TZ"] = "UTC"
time.tzset()

LETTERS = string.ascii_letters + "%+!:"
FORMATS = [f"%{letter}" for letter in LETTERS]
FORMATS += [f"%{flag}{letter}" for flag in ["-", "_", "0", "^", "#"] for letter in "aAbBcdeFHIjklmMpPrSTuUVwyYCGgxX%nQ"]
FORMATS += [f"%{flag}{width}{letter}" for flag in ["", "-", "_", "0", "^"] for width in [1, 5, 12] for letter in "aBdeYjcFp%s"]
FORMATS += [f"%{modifier}{letter}" for modifier in "EO" for letter in "abdhekljgGDFnPRrstTeBcCxXyYHImMSuUVwWpQ"]
FORMATS += ["", "%", "a%", "%%Y", "%-", "%5", "%E", "%^", "100%% ä", "%d %B %Y", "%A, %-d. %b '%y", "%-I:%M %p", "%G-W%V-%u", "ä%Yö",
            "%_-d", "%0_d", "%^#a", "%#^p", "%^q", "%^5q", "%05q", "%^Ei", "%0-d", "%-0d", "%012s", "%_12s", "%1000d", "%1500d", "%9999d", "%2000d" + "x" * 20]
DATES = ["2024-07-26", "2024-01-01", "2023-12-31", "2024-12-30", "2000-02-29", "2021-01-03", "1999-12-31", "2024-03-05T09:05:07",
         "2024-07-06T15:04:09", "2026-11-29T23:59:59", "1970-01-01", "2027-01-01T12:00:00", "2010-01-03T00:30:00", "2016-12-31",
         "2020-12-31T11:59:59", "2100-02-28", "9999-12-31", "1987-06-15"]

dates = [[text, [datetime.datetime.fromisoformat(text).strftime(format) for format in FORMATS]] for text in DATES]
OUT.write_text(json.dumps({"formats": FORMATS, "dates": dates}, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
print(f"{len(FORMATS)} formats, {len(DATES)} dates")
