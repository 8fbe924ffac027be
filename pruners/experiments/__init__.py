"""The product of models, datasets, methods, measures, amounts and seeds, cell by cell.

grid      what an experiment is, and each of its cells
compute   one cell: pruned, compared with its oracle, tested
cells     a finished cell, and the file that it is stored in
results   what all cells say together: rows, a table, a plot
trackers  Weights & Biases, TensorBoard
run       the whole of it, in a folder that a later run goes on with
"""
