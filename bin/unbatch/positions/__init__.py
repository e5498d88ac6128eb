"""What predicted positions are worth: rivals, splits, radii, warnings, and tables of them. Arrays in, arrays out.

Positions are in spot pitches unless said otherwise. A spot is known where its position was given to the model.
"""
