# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Fails if a dependency of the host code has a licence that is not on the list."""
import json
import subprocess
import sys

ALLOWED = {
    "MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD", "Unicode-3.0",
    "Unlicense", "CC0-1.0", "MIT-0", "Apache-2.0 WITH LLVM-exception",
}


def usable(expression):
    """True if some alternative of the expression needs listed licences only."""
    text = (expression or "").replace("/", " OR ").replace("(", " ").replace(")", " ")
    return any(all(part.strip() in ALLOWED for part in choice.split(" AND ")) for choice in text.split(" OR "))


metadata = json.loads(subprocess.run(
    ["cargo", "metadata", "--format-version=1", "--locked"], check=True, capture_output=True).stdout)
bad = [f"{p['name']} {p['version']}: {p['license']}" for p in metadata["packages"]
       if p["source"] and not usable(p["license"])]
print("\n".join(bad))
sys.exit(bool(bad))
