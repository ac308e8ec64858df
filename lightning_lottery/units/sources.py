"""Whether a class runs one of its layers as a whole, by the class's source: where its forward cannot be traced."""

import ast
import inspect
import textwrap
from collections.abc import Iterator

from torch import nn

# Methods of a module that run none of its layers.
_HARMLESS = frozenset(
    ("parameters", "named_parameters", "buffers", "state_dict", "load_state_dict", "zero_grad", "requires_grad_")
    + ("apply", "train", "eval", "training", "to", "cpu", "cuda", "float", "half", "double", "bfloat16")
)
_LISTS_OF_CHILDREN = frozenset(("children", "named_children", "_modules"))


def only_calls(module: nn.Module, attribute: str) -> bool:
    """Whether all that a module's classes do with one of its layers is to call it, and to list its parameters.

    Args:
        module: What holds the layer, a LightningModule without a ``forward`` for example.
        attribute: The layer's name in it.

    Returns:
        False also where no source is at hand, and where nothing in it calls the layer.
    """
    if "forward" in vars(module):
        return False
    trees = [_parsed(cls) for cls in type(module).__mro__ if not _is_a_library_s(cls)]
    if not trees or None in trees:
        return False
    has_call = False
    for tree in trees:
        for node, parent in _with_parents(tree):
            if isinstance(node, ast.Constant) and node.value == attribute:
                return False  # perhaps of `getattr`
            if not isinstance(node, ast.Attribute) or isinstance(node.ctx, ast.Store):
                continue
            if node.attr in _LISTS_OF_CHILDREN:
                return False
            if node.attr == attribute:
                is_call = isinstance(parent, ast.Call) and parent.func is node
                if not is_call and not (isinstance(parent, ast.Attribute) and parent.attr in _HARMLESS):
                    return False
                has_call = has_call or is_call
    return has_call


def _is_a_library_s(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("torch", "lightning", "pytorch_lightning", "builtins", "abc", "typing")


def _parsed(cls: type) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return None


def _with_parents(tree: ast.AST | None) -> Iterator[tuple[ast.AST, ast.AST]]:
    for parent in ast.walk(tree) if tree is not None else ():
        for node in ast.iter_child_nodes(parent):
            yield node, parent
