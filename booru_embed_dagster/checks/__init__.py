"""Asset checks: what must hold of a product before anything is made from it, one file a stage.

A check reads the product from disk, as its readers do, and compares it with something that it was not made by. Where
what follows would be wrong it blocks: when it fails, what is downstream of its asset does not run. Where a person is to
look and decide it warns and stops nothing. The table of all of them is ``docs/reference/checks.md``.
"""
