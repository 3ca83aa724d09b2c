#!/usr/bin/env python3
"""Makes tests/fixtures/models: tiny random checkpoints of every architecture and head, and what is known about them.

    python tests/reference/make_model_fixtures.py [PART…] [--only NAME…]

Parts: tokenizers, decoders, heads, encoders (checkpoints, and what transformers computes with them). The default is all
parts. Needs the packages of requirements-fixtures.txt, and no network. Running it again gives the same files.
"""

import argparse
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from tiny import decoders, encoders, heads, tokenizers

PARTS = {"tokenizers": tokenizers.make, "decoders": decoders.make, "heads": heads.make, "encoders": encoders.make}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models to make; all unless given")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is no part; there are {', '.join(PARTS)}")
    for part in arguments.parts or PARTS:
        PARTS[part](arguments.only)


if __name__ == "__main__":
    main()
