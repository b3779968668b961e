"""`jobledger demo`: runs all of Jobledger on real specs and checks the outcome.

    environment ─► scenario ─► evidence ─► checks ─► show

The scenario only acts and records evidence; the checks only judge the evidence, so each can be tested with
wrong evidence; `show` only prints.
"""
