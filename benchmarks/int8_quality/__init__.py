"""How much of a Sentence Transformer's vectors each int8 quantizer keeps, side by side.

    rows ─► (own virtual environment) quantize ─► embed ─► metrics ─► results/*.json ─► docs table

``python -m benchmarks.int8_quality --stsb DIR --nfcorpus DIR`` quantizes all-MiniLM-L6-v2 with
this project's presets and with its peers, from the same calibration text, and measures all of
them with the same functions.
"""
