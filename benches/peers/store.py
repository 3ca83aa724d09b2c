"""The results file: one measurement after another, written as soon as it is there, so that a run can go on later."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

Run = dict[str, Any]


class Store:
    """A JSON file that is always whole on disk."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def open(cls, path: Path, header: dict[str, Any], resume: bool, overwrite: bool) -> Store:
        """A new file with `header`, or with `resume` the one that is there, if it was made in the same conditions."""
        if path.exists() and not resume and not overwrite:
            raise SystemExit(f"{path} is there already: --resume goes on with it, --overwrite replaces it")
        if not path.exists() or not resume:
            return cls(path, {**header, "runs": [], "failed": []})
        found = cls.read(path)
        for field in ("settings", "foreturn_sha256", "versions"):
            if found.content.get(field) != header[field]:
                raise SystemExit(
                    f"{path} can't be resumed: `{field}` was {found.content.get(field)}, is {header[field]}; "
                    "--overwrite starts anew"
                )
        found.content["failed"] = []
        return found

    @classmethod
    def read(cls, path: Path) -> Store:
        """The file as it is."""
        try:
            return cls(path, json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise SystemExit(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise SystemExit(f"{path} is no results file: {error}") from error

    def write(self) -> None:
        """Replaces the file in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.part")
        unfinished.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)

    def add(self, run: Run) -> None:
        """Keeps a measurement."""
        self.content["runs"].append(run)
        self.write()

    def add_failure(self, run: Run) -> None:
        """Keeps why there is no measurement."""
        self.content["failed"].append(run)
        self.write()

    def has(self, **fields: Any) -> bool:
        """Whether there is a measurement with these fields."""
        return bool(self.runs(**fields))

    def runs(self, **fields: Any) -> list[Run]:
        """All measurements with these fields."""
        wanted = fields.items()
        return [run for run in self.content["runs"] if all(run.get(name) == value for name, value in wanted)]


def spread(values: list[float]) -> dict[str, float | int]:
    """Median, smallest, largest and how many."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}
