"""Sizes that are written as numbers: which expression says them, and what it has to say instead.

A forward that says `x.view(-1, 256 * 6 * 6)`, splits by `self.split_sizes` or pads by
`planes // 4` holds widths in numbers. The replay notes every call whose sizes do not follow
(`replay.Correction`), with the frames that made it. Here the way goes from there to the source:

    call          the node whose code was running: `x.view(-1, 256 * 6 * 6)`
    argument      the expression of the size that is wrong: `256 * 6 * 6`
    number        the part of it that has to change: `256`, an attribute or a local name
    definition    where all uses of that name or attribute agree, what they read

A number that has to differ between instances of a class becomes an attribute, and so a parameter
of the constructor. A size that follows from a tensor's shape cannot be rewritten: it is no number.
Nothing here looks for equal values: an image size of 64 stays beside a width of 64.
"""
