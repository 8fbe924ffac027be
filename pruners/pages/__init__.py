"""Pages that show what a run has done: one HTML file each, which needs nothing but a browser.

facts.py     what the page of a pruned network says, as plain values
placing.py   where its layers are drawn
trials.py    what the page of many networks says: accuracy over size, and who is on the front
charts.py    every chart as a Vega-Lite specification
listing.py   source code as lines of coloured words, the original beside the generated
render.py    facts and charts through the templates, as the bytes of a file
pictures.py  charts as PNG and SVG
of_job.py    the page and the pictures of a run of the command line
"""
