"""A contract for import-linter: no module imports itself through others, type-only imports included."""

import graphlib
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class AcyclicModules(Contract):
    """No import cycles between the modules of a package.

    The contract `acyclic_siblings` of import-linter compares packages: it refuses packages that use each
    other although no module is part of a cycle.
    """

    package = fields.ModuleField()

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002 - the name is import-linter's
        """Whether the modules can be put in an order in which each imports only earlier ones."""
        root = self.package.name  # type: ignore[attr-defined]
        modules = {root, *graph.find_descendants(root)}
        imports = {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}
        try:
            graphlib.TopologicalSorter(imports).prepare()
        except graphlib.CycleError as error:
            return ContractCheck(kept=False, metadata={"cycle": error.args[1]})
        return ContractCheck(kept=True)

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the cycle."""
        cycle: Any = check.metadata["cycle"]
        output.print_error("These modules import each other:")
        output.print_error(" -> ".join(reversed(cycle)))
