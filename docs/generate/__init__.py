"""The pages of ``docs/reference``, made from the code that they are about.

``python -m docs.generate`` writes them; with ``--check`` it says which are not what it would write,
and ends with 1.
"""
