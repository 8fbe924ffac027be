"""What operators do to channel labels: one rule an operator, in four kinds, a file each.

Two channels of a convolution with rows 7 and 8 (weight[0]) that reads atoms 1, 2, 3:

    x        (1, 3, H, W)   layer 1 2 3 along dimension 1, stride 0 elsewhere
    weight   (2, 3, 3, 3)   rows 7 8, columns 9 10 11
    conv2d                  couples 1-9, 2-10, 3-11; the result carries 7 8 along dimension 1
    flatten                 the result (1, 2*H*W) carries 7 7 ... 7 8 8 ... 8

Rules get a `Notes` (where couplings are written down) and a `Call` (operator, arguments, result)
and return the labels of the result. Which operator has which rule is in `operators.py`.
"""
