"""The commands of `jobledger`, a module each; `cli` imports one only when it is asked for."""
