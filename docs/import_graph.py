"""Print the import graph of medood's folders as a Mermaid diagram, highest folder first: ``python docs/import_graph.py``."""

from __future__ import annotations

from collections import defaultdict

import grimp

#: Folders and top-level modules that every other one may import; drawn as one box.
BASE = ("config", "progress", "output_folder", "errors", "reasons", "text", "allocator")


def rooms() -> dict[str, set[str]]:
    """The folders that each folder imports."""
    graph = grimp.build_graph("medood")
    edges: dict[str, set[str]] = defaultdict(set)
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            source, target = (name.split(".")[1] if "." in name else "" for name in (importer, imported))
            if source and target and source not in BASE and source != "__main__":
                target = "base" if target in BASE else target
                if source != target:
                    edges[source].add(target)
    return edges


def layers(edges: dict[str, set[str]]) -> list[list[str]]:
    """Folders by layer, the highest first; a folder imports lower layers only.

    Raises:
        ValueError: there is a circle.
    """
    height: dict[str, int] = {}

    def measure(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ValueError(f"a circle: {' -> '.join((*path, name))}")
        if name not in height:
            height[name] = 1 + max((measure(other, (*path, name)) for other in edges.get(name, ())), default=-1)
        return height[name]

    for name in list(edges):
        measure(name, ())
    by_layer: dict[int, list[str]] = defaultdict(list)
    for name, layer in height.items():
        by_layer[layer].append(name)
    return [sorted(by_layer[layer]) for layer in sorted(by_layer, reverse=True)]


def mermaid() -> str:
    """The diagram; each arrow points from the importer down to what it imports, transitive arrows left out."""
    edges = rooms()
    order = [name for layer in layers(edges) for name in layer]

    def reach(name: str) -> set[str]:
        found = set(edges.get(name, ()))
        for other in edges.get(name, ()):
            found |= reach(other)
        return found

    lines = ["flowchart TD", f'  base["{", ".join(BASE)}"]']
    for name in order:
        direct = edges.get(name, set())
        indirect = set().union(*(reach(other) for other in direct)) if direct else set()
        lines += [f"  {name} --> {other}" for other in sorted(direct - indirect, key=order.index)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
