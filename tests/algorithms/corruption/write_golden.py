"""Write the golden hashes anew, after pixels were changed on purpose: python tests/algorithms/corruption/write_golden.py"""

import json

from clips import EXACT, GOLDEN, digests

GOLDEN.write_text(json.dumps({name: digests(name) for name in EXACT}, indent=1) + "\n", encoding="utf-8")
