"""Digests of code: which sources a job runs, found from their imports, hashed without comments and docstrings.

A comment should not throw away twenty hours, and a changed loss must not keep old results.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

READ_BY_CODE = (".html", ".css", ".js")  # files that sources beside them read, such as templates
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Sources:
    """The Python sources of a project; what was parsed once is kept."""

    def __init__(self, project: Path, libraries: Iterable[str]) -> None:
        """
        Args:
            project: the folder from which the project's packages are imported.
            libraries: distributions whose installed version counts wherever a source imports the module of that name.
        """
        self.project = project
        self.libraries = frozenset(libraries)
        self._parsed: dict[str, Source] = {}

    def digest(self, modules: Iterable[str]) -> str:
        """The digest (half a SHA-256, in hex) of sources and of all that they import from the project.

        Args:
            modules: paths relative to the project.

        Files beside them that code reads (templates, styles, scripts) count by their bytes.

        Raises:
            FileNotFoundError: a module is not there.
        """
        sources = self._closure(modules)
        hashed = hashlib.sha256()
        for path in sorted(sources):
            hashed.update(f"{path}\0{sources[path].canonical}\0".encode())
        for folder in sorted({(self.project / path).parent for path in sources}):
            for file in sorted(folder.iterdir()):
                if file.suffix in READ_BY_CODE and not file.name.startswith("."):
                    hashed.update(f"{file.relative_to(self.project).as_posix()}\0".encode() + file.read_bytes() + b"\0")
        imported = {name.partition(".")[0] for source in sources.values() for name in source.imports}
        for library in sorted(imported & self.libraries):
            hashed.update(f"{library}=={_public_version(library)}\0".encode())
        return hashed.hexdigest()[:32]

    def check_unchanged(self) -> None:
        """To be called once the code is imported, which reads the sources once more.

        Raises:
            ValueError: a source differs, by more than comments and docstrings, from what digests were taken of.
        """
        for path, source in self._parsed.items():
            text = (self.project / path).read_text(encoding="utf-8")
            if text != source.text and Source(path, text).canonical != source.canonical:
                raise ValueError(f"{path}: was edited while a job started that runs it: run `snakemake` again")

    def _closure(self, modules: Iterable[str]) -> dict[str, "Source"]:
        found: dict[str, Source] = {}
        pending = list(modules)
        while pending:
            path = pending.pop()
            if path not in found:
                found[path] = self._source(path)
                for name in found[path].imports:
                    pending += self._files(name)
        return found

    def _source(self, path: str) -> "Source":
        if path not in self._parsed:
            self._parsed[path] = Source(path, (self.project / path).read_text(encoding="utf-8"))
        return self._parsed[path]

    def _files(self, name: str) -> Iterator[str]:
        """The project's files that importing a dotted name runs, packages included; none for another project's."""
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            stem = "/".join(parts[:length])
            for path in (f"{stem}.py", f"{stem}/__init__.py"):
                if (self.project / path).is_file():
                    yield path


class Source:
    """One parsed source."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = ast.parse(text, filename=path)

    @cached_property
    def imports(self) -> frozenset[str]:
        """The dotted names that it may import: of `from a import b` both a and a.b, since b may be a module."""
        return frozenset(name for node in _executed(self.tree) for name in self._imported(node))

    @cached_property
    def canonical(self) -> str:
        """Its syntax tree as text, without comments, docstrings, layout and line numbers."""
        return repr(_canonical(self.tree))

    def _imported(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = self.path.split("/")[: -node.level] if node.level else []
            origin = ".".join([*package, *filter(None, [node.module])])
            yield from (origin, *(f"{origin}.{alias.name}" for alias in node.names))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`, which never run."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for alternative in child.orelse:
                yield from _executed(alternative)
        else:
            yield from _executed(child)


def _canonical(node: Any) -> Any:
    """Nested tuples of names and constants. Empty fields are left out, since Python versions differ in them."""
    if isinstance(node, list):
        return tuple(_canonical(item) for item in node)
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    kept = [(name, _canonical(value)) for name, value in fields.items() if value is not None and value != []]
    return (type(node).__name__, *kept)


def _public_version(library: str) -> str:
    """The installed version without its local part: 2.13.0 for 2.13.0+cpu, so that builds share results."""
    from importlib.metadata import version  # 15 ms, for code that imports such a library

    return version(library).partition("+")[0]
