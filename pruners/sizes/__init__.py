"""Sizes that are written as numbers: which expression says them, and what it has to say instead.

A forward that says `x.view(-1, 256 * 6 * 6)`, splits by `self.split_sizes` or pads by
`planes // 4` holds widths in numbers. The replay notes every call whose sizes do not follow
(`replay.Correction`), with the frames that made it. Here the way goes from there to the source:

    call          the node whose code was running: `x.view(-1, 256 * 6 * 6)`       syntax.py
    argument      the expression of the size that is wrong: `256 * 6 * 6`          arguments.py
    number        the part that has to change: `256`, an attribute, a local name   numbers.py
    definition    where all uses of that name or attribute agree, what they read   names.py
    plan          which of them changes, from the needs of all instances           plan.py
    rewrites      the new text, and the new attributes                             rewrites.py

A number that has to differ between instances of a class becomes an attribute, and so a parameter
of the constructor. A size that follows from a tensor's shape cannot be rewritten: it is no number.
Nothing here looks for equal values: an image size of 64 stays beside a width of 64.
"""
