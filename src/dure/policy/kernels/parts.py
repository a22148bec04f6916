"""Kernels as parts of what calls them: typed and lowered on their own, optimised and made machine code only with their caller.

Numba makes every function that another calls a library of its own, with all that it calls linked in, optimised and turned into
machine code, and then does the same again for each caller: through twenty levels of kernels, sixteen times the work for code that
Python never enters (ADR 4). A part stops after linking, and only what Python calls is finished. The classes here change steps of
Numba that it lets others change (compiler, library, cache), by names of its inside: 0.63 to 0.68 have them, tried on both ends.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from numba.core.caching import Cache, CompileResultCacheImpl
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, compile_result
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Library(JITCodeLibrary):
    """Code to be linked only."""

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True

    @classmethod
    def of_bitcode(cls, codegen: Any, name: str, code: bytes) -> _Library:
        library = cls(codegen, name)
        library._final_module = library._shared_module = llvm.parse_bitcode(code)
        library._finalized = True
        return library


class _Key:
    """By which Numba finds a part again: elsewhere it is the function that Python calls."""


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    _name = "dure_part_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        state.library.finalize()
        lowered = state["cr"] = state["cr"]._replace(cfunc=_Key())
        state.targetctx.insert_user_function(lowered.cfunc, lowered.fndesc, [state.library])
        state.reload_init.extend(state.library._reload_init)
        return True


class PartCompiler(CompilerBase):
    """Numba's passes, the last of them without machine code."""

    def define_pipelines(self) -> list[Any]:
        """Numba's one, changed."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_PartLowering if of is NativeLowering else of, why) for of, why in passes.passes]
        passes.finalize()
        return [passes]


class _PartCacheImpl(CompileResultCacheImpl):
    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        return f"{super().get_filename_base(fullname, abiflags)}.part"

    def reduce(self, cres: Any) -> Any:
        cres.fndesc.typemap = cres.fndesc.calltypes = None
        environments = tuple(cres._find_referenced_environments())
        code = cres.library._get_module_for_linking().as_bitcode()
        return cres.library.name, code, cres.fndesc, cres.environment, cres.signature, cres.reload_init, environments

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        name, code, fndesc, environment, signature, reload_init, environments = payload
        for reload in reload_init:
            reload()
        return compile_result(
            typing_context=target_context.typing_context, target_context=target_context, entry_point=_Key(), fndesc=fndesc,
            library=_Library.of_bitcode(target_context.codegen(), name, code), environment=environment, signature=signature,
            reload_init=reload_init, referenced_envs=environments, lifted=(), objectmode=False, type_annotation="",
            typing_error=None, call_helper=None, metadata=None,
        )  # fmt: skip


class PartCache(Cache):
    """Beside a kernel's own files in the cache."""

    _impl_class = _PartCacheImpl
