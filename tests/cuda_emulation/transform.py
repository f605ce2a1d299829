"""Turns CUDA source text into C++ for tests/cuda_emulation/cuda_runtime.h; line numbers stay."""

from __future__ import annotations

import re
from pathlib import Path

LAUNCH = re.compile(r"(?P<kernel>(?P<name>\w+)(?:<[^;{}()]*>)?)\s*<<<(?P<configuration>.*?)>>>\s*\(", re.DOTALL)
SHARED = re.compile(r"__shared__\s+(?P<type>[^;]+?)\s+(?P<name>\w+)(?P<extent>(?:\[[^\]]*\])*)\s*;")
BOUNDED_KERNEL = re.compile(r"__launch_bounds__\((?P<threads>\w+)[^)]*\)\s*(?P<name>\w+)\(")
REGISTRATION = re.compile(r"(STABLE_TORCH_LIBRARY_IMPL\(\w+, )CUDA,")


def to_cpp(source: str, path: Path) -> str:
    """The source with launches and shared variables as calls of the emulation, and kernels registered for the CPU.

    `path` is what compilers and sanitizers call the file. Raises: ValueError when something was not understood.
    """
    bounds = {match["name"]: match["threads"] for match in BOUNDED_KERNEL.finditer(source)}

    def launch(match: re.Match[str]) -> str:
        name = match["name"]
        replacement = (
            f'cuda_emulation::launch("{name}", {bounds.get(name, 0)}, {{{match["configuration"]}}}, '
            f"[](auto&... arguments) {{ {match['kernel']}(arguments...); }})("
        )
        return replacement + "\n" * (match[0].count("\n") - replacement.count("\n"))

    def shared(match: re.Match[str]) -> str:
        name = match["name"]
        variable = f"static {match['type']} {name}{match['extent']};"
        return f'{variable} cuda_emulation::meet_shared(&{name}, sizeof({name}), "{name}");'

    text = SHARED.sub(shared, LAUNCH.sub(launch, REGISTRATION.sub(r"\1CPU,", source)))
    for left in ("<<<", "__shared__"):
        if left in text:
            line = text[: text.index(left)].count("\n") + 1
            raise ValueError(f"{path}:{line}: this use of {left} is not understood; extend {Path(__file__).name}")
    return f'#line 1 "{path}"\n{text}'
