"""Asset checks: one file per stage, named like the assets.

A check reads the product from disk, as its readers do, and compares it with independent data. A blocking check stops
everything downstream of its asset when it fails; a warning stops nothing, and a person decides. They are all listed in
``docs/reference/checks.md``.
"""
