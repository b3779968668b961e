"""`jobledger demo`: the whole of Jobledger at work on real specs, and the proof of it.

    inputs ─► story (with load, projecting) ─► evidence ─► checks ─► show

The story only does things and keeps what it saw; the checks only judge that, so each can be tested with
evidence that is wrong; showing comes last and decides nothing.
"""
